// The C functions on states.

#include "api/guard.hpp"
#include "api/handles.hpp"

#include <memory>

using minit2i::guarded;
using minit2i::require;

namespace {

minit2i_state_params default_params() {
    minit2i_state_params params{};
    params.struct_size = sizeof params;
    return params;
}

} // namespace

minit2i::StateCall::StateCall(minit2i_state &state) : state_(state) {
    state.model->engine.check_process();
    if (state.is_busy.exchange(true)) {
        fail_usage("state has another call in progress; make one state for each thread");
    }
    state.control.begin();
}

extern "C" {

minit2i_status minit2i_state_params_defaults(minit2i_state_params *params, size_t size) {
    return guarded(
        [&] { minit2i::write_struct(&require(params, "params"), default_params(), size); });
}

minit2i_status minit2i_state_new(minit2i_model *model, const minit2i_state_params *params,
                                 minit2i_state **state) {
    return guarded([&] {
        require(model, "model");
        minit2i::require_empty(state, "state");
        const minit2i_state_params settings =
            params == nullptr ? default_params() : minit2i::read_struct(*params, default_params());
        auto created = std::make_unique<minit2i_state>();
        created->model = model->shared;
        created->warn = settings.on_warning == nullptr
                            ? model->shared->warn
                            : minit2i::warn_of(settings.on_warning, settings.warning_data);
        *state = created.release();
    });
}

void minit2i_state_free(minit2i_state *state) { delete state; }

void minit2i_cancel(minit2i_state *state) {
    if (state != nullptr) {
        state->control.cancel();
    }
}

} // extern "C"
