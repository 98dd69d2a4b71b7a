#include "sampling/generate.hpp"

#include "common/failure.hpp"
#include "common/python_json.hpp"
#include "engine/trajectory.hpp"
#include "sampling/settings.hpp"
#include "text/embed.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

namespace minit2i {
namespace {

// As in Python, which compares the same float64 values.
constexpr double kTimeRounding = 1e-9;

using Sessions = std::vector<std::shared_ptr<GraphSession>>;

// A step graph for each row. All are open when this returns, so that no row's time includes it.
Sessions step_sessions(const Bundle &bundle, Engine &engine, const Table &table) {
    const std::optional<SwitchGraph> &after_switch = bundle.manifest.after_switch;
    const char *graph = kStepGraph;
    Sessions sessions;
    for (std::size_t row = 0; row < table.size(); ++row) {
        // Once switched it stays so, whatever times a table of the caller has after that.
        if (after_switch && table.value(row, "t") >= after_switch->t - kTimeRounding) {
            graph = kAfterSwitchGraph;
        }
        sessions.push_back(engine.session(graph));
    }
    return sessions;
}

void check_finite(const std::vector<float> &state, std::size_t num_images) {
    for (std::size_t at = 0; at < state.size(); ++at) {
        if (!std::isfinite(state[at])) {
            fail_runtime("image " + std::to_string(at / (state.size() / num_images)) +
                         " of the batch holds NaN or infinity, but finite values are needed; use "
                         "a higher precision (fp32) and run minit2i verify");
        }
    }
}

// clamp(x, -1, 1) * 127.5 + 128, at most 255, truncated; [3, H, W] to [H, W, 3].
std::vector<std::uint8_t> to_pixels(const std::vector<float> &state, std::size_t num_images) {
    const std::size_t num_values = state.size() / num_images;
    const std::size_t plane = num_values / 3;
    std::vector<std::uint8_t> pixels(state.size());
    for (std::size_t at = 0; at < state.size(); ++at) {
        const std::size_t inside = at % num_values;
        const float scaled = std::clamp(state[at], -1.0F, 1.0F) * 127.5F + 128.0F;
        pixels[at - inside + inside % plane * 3 + inside / plane] =
            static_cast<std::uint8_t>(std::min(scaled, 255.0F));
    }
    return pixels;
}

Frame frame_of(const Trajectory &trajectory, const Settings &settings, std::size_t row,
               std::size_t num_images) {
    const Table &table = settings.table;
    Frame frame;
    frame.row = row;
    frame.num_rows = table.size();
    frame.t = table.value(row, "t");
    frame.num_images = num_images;
    frame.estimate = trajectory.estimate(static_cast<float>(table.value(row, "s")));
    // Before the pixels: the conversion of NaN to an integer is undefined.
    check_finite(frame.estimate, num_images);
    frame.pixels = to_pixels(frame.estimate, num_images);
    frame.size = settings.size;
    return frame;
}

std::vector<StepRow> step_rows(const Settings &settings) {
    std::vector<StepRow> rows;
    for (std::size_t row = 0; row < settings.table.size(); ++row) {
        rows.push_back({settings.table.step_row(row), settings.weights[row]});
    }
    return rows;
}

bool draws_noise(const Table &table) {
    for (std::size_t row = 0; row < table.size(); ++row) {
        if (table.value(row, "n") != 0.0) {
            return true;
        }
    }
    return false;
}

} // namespace

Generation generate(const Bundle &bundle, Engine &engine, const Tokenizer &tokenizer,
                    const Request &request, const Callbacks &callbacks) {
    Settings settings = settle(bundle, request);
    const Table &table = settings.table;
    if (request.negative && !settings.guided) {
        callbacks.warn("the negative prompt has no effect at guidance " +
                       python_float(settings.guidance) + " under table " + table.name());
    }
    const Branches branches{settings.guided,
                            request.negative && settings.guided ? &*request.negative : nullptr,
                            settings.conditions};
    Tensor tokens = branch_tokens(engine, tokenizer, request.prompts, branches, callbacks.control,
                                  callbacks.warn);
    const Sessions sessions = step_sessions(bundle, engine, table);
    const std::unique_ptr<Trajectory> trajectory =
        engine.start(start_state(bundle, request, settings), std::move(tokens), settings.edit.known,
                     step_rows(settings), draws_noise(table));
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t row = 0; row < table.size(); ++row) {
        const bool is_noisy = table.value(row, "n") != 0.0;
        trajectory->step({*sessions[row], row,
                          is_noisy ? row_noise(request, settings.size, row) : std::vector<float>{},
                          callbacks.on_frame || row + 1 == table.size()},
                         callbacks.control);
        if (callbacks.on_frame) {
            callbacks.on_frame(frame_of(*trajectory, settings, row, request.prompts.size()));
        }
        callbacks.progress(row + 1, table.size());
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    std::vector<float> state = trajectory->x();
    settings.edit.finish(state);
    check_finite(state, request.prompts.size());
    std::vector<std::uint8_t> pixels = to_pixels(state, request.prompts.size());
    std::vector<EditRecord> edits = settings.edit.records(request.prompts.size());
    return {settings.size,
            std::move(state),
            std::move(pixels),
            std::move(settings.base_table),
            std::move(settings.table),
            settings.guidance,
            elapsed.count(),
            std::move(edits)};
}

} // namespace minit2i
