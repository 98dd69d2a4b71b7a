// The C functions on embeddings.

#include "api/guard.hpp"
#include "api/handles.hpp"

#include <memory>

using minit2i::fail_usage;
using minit2i::guarded;
using minit2i::require;

namespace {

minit2i_embed_params default_params() {
    minit2i_embed_params params{};
    params.struct_size = sizeof params;
    params.batch_size = minit2i::kEmbedBatchSize;
    return params;
}

std::vector<std::string_view> views_of(const minit2i_text *texts, std::size_t num_texts) {
    if (num_texts == 0) {
        fail_usage("num_texts is 0, but at least 1 is needed");
    }
    require(texts, "texts");
    std::vector<std::string_view> views;
    for (std::size_t index = 0; index < num_texts; ++index) {
        views.push_back(minit2i::view_of(texts[index], "text"));
    }
    return views;
}

} // namespace

extern "C" {

minit2i_status minit2i_embed_params_defaults(minit2i_embed_params *params, size_t size) {
    return guarded(
        [&] { minit2i::write_struct(&require(params, "params"), default_params(), size); });
}

minit2i_status minit2i_embed(minit2i_state *state, const minit2i_embed_params *params,
                             minit2i_embeddings **embeddings) {
    return guarded([&] {
        minit2i_state &own = require(state, "state");
        minit2i::require_empty(embeddings, "embeddings");
        const minit2i_embed_params settings =
            minit2i::read_struct(require(params, "params"), default_params());
        const std::vector<std::string_view> texts = views_of(settings.texts, settings.num_texts);
        if (settings.batch_size == 0) {
            fail_usage("batch_size is 0, but at least 1 is needed");
        }
        const minit2i::StateCall call(own);
        const minit2i::Model &model = *own.model;
        auto result = std::make_unique<minit2i_embeddings>();
        result->embedded = minit2i::embed(
            model.engine, model.tokenizer(), texts, settings.batch_size, own.control,
            minit2i::progress_of(settings.on_progress, settings.progress_data, "text"), own.warn);
        result->pooled = minit2i::pooled(result->embedded);
        *embeddings = result.release();
    });
}

size_t minit2i_embeddings_num_texts(const minit2i_embeddings *embeddings) {
    return embeddings == nullptr ? 0 : embeddings->embedded.num_texts();
}

size_t minit2i_embeddings_num_tokens(const minit2i_embeddings *embeddings) {
    return embeddings == nullptr ? 0 : embeddings->embedded.num_tokens;
}

size_t minit2i_embeddings_width(const minit2i_embeddings *embeddings) {
    return embeddings == nullptr ? 0 : embeddings->embedded.width;
}

const float *minit2i_embeddings_values(const minit2i_embeddings *embeddings) {
    return embeddings == nullptr ? nullptr : embeddings->embedded.values.data();
}

const int64_t *minit2i_embeddings_mask(const minit2i_embeddings *embeddings) {
    return embeddings == nullptr ? nullptr : embeddings->embedded.mask.data();
}

const float *minit2i_embeddings_pooled(const minit2i_embeddings *embeddings) {
    return embeddings == nullptr ? nullptr : embeddings->pooled.data();
}

void minit2i_embeddings_free(minit2i_embeddings *embeddings) { delete embeddings; }

} // extern "C"
