// The C functions on clients and embeddings; api_pictures.cpp has those on pictures.

#include "api/handles.hpp"
#include "api/guard.hpp"
#include "sampling/noise.hpp"
#include "version.hpp"

#include <algorithm>
#include <array>
#include <memory>

using minit2i::expect_empty;
using minit2i::fail_usage;
using minit2i::give;
using minit2i::guarded;
using minit2i::needed;
using minit2i::view_of;

namespace {

thread_local std::string last_error;
thread_local bool last_error_lost = false;

minit2i_open_params default_params() {
    return {sizeof(minit2i_open_params), "cpu", 0, nullptr, nullptr, 0, nullptr, nullptr};
}

// More than any one machine has cores; the engine starts as many as it is told.
constexpr std::int32_t kMaxThreads = 4096;

int checked_threads(std::int32_t count) {
    if (count < 0 || count > kMaxThreads) {
        fail_usage("num_threads is " + std::to_string(count) + ", but 0 (all cores) to " +
                   std::to_string(kMaxThreads) + " is needed");
    }
    return count;
}

} // namespace

minit2i_client::minit2i_client(const char *path, const minit2i_open_params &params)
    : bundle(path),
      engine(bundle,
             minit2i::checked_choice(params.provider, params.plugin, params.precision),
             checked_threads(params.num_threads), params.lean != 0),
      warn([call = params.on_warning, data = params.warning_data](const std::string &text) {
          if (call != nullptr) {
              call(data, text.c_str());
          }
      }) {}

const minit2i::Tokenizer &minit2i_client::tokenizer() {
    if (!tokenizer_) {
        tokenizer_.emplace(minit2i::Tokenizer::open(bundle.tokenizer_path(),
                                                    bundle.manifest.model.prompt_length));
    }
    return *tokenizer_;
}

namespace minit2i {

minit2i_status keep_error(minit2i_status status, const char *text) noexcept {
    try {
        last_error = text;
        // One line, whatever a library or a file name put into it.
        std::replace(last_error.begin(), last_error.end(), '\n', ' ');
        last_error_lost = false;
    } catch (...) {
        last_error_lost = true;
    }
    return status;
}

} // namespace minit2i

extern "C" {

const char *minit2i_version(void) { return MINIT2I_VERSION; }

const char *minit2i_status_name(minit2i_status status) {
    static constexpr std::array<const char *, 7> names{
        "ok", "usage", "bundle", "runtime", "cancelled", "memory", "internal"};
    const auto index = static_cast<std::size_t>(status);
    return index < names.size() ? names[index] : "unknown";
}

const char *minit2i_last_error(void) {
    return last_error_lost ? "out of memory" : last_error.c_str();
}

minit2i_status minit2i_open_params_defaults(minit2i_open_params *params, size_t size) {
    return guarded([&] { give(&needed(params, "params"), default_params(), size); });
}

minit2i_status minit2i_open(const char *bundle, const minit2i_open_params *params,
                            minit2i_client **client) {
    return guarded([&] {
        needed(bundle, "bundle");
        expect_empty(client, "client");
        minit2i_open_params known = default_params();
        if (params != nullptr) {
            known = minit2i::known_part(*params, default_params());
        }
        *client = std::make_unique<minit2i_client>(bundle, known).release();
    });
}

void minit2i_close(minit2i_client *client) { delete client; }

minit2i_status minit2i_get_info(const minit2i_client *client, minit2i_info *info) {
    return guarded([&] {
        const minit2i::Manifest &manifest = needed(client, "client").bundle.manifest;
        minit2i_info values{};
        values.image_size = static_cast<std::int32_t>(manifest.model.image_size);
        values.prompt_length = static_cast<std::int32_t>(manifest.model.prompt_length);
        values.embedding_width = static_cast<std::int32_t>(manifest.model.txt_input_size);
        values.is_student = manifest.model.is_student ? 1 : 0;
        client->bundle.digest.copy(values.digest, sizeof values.digest - 1);
        manifest.default_preset.copy(values.default_preset, sizeof values.default_preset - 1);
        give(info, values, needed(info, "info").struct_size);
    });
}

minit2i_status minit2i_verify(minit2i_client *client, minit2i_progress on_progress,
                              void *progress_data) {
    return guarded([&] {
        needed(client, "client").bundle.verify([&](std::uint64_t done, std::uint64_t total) {
            if (on_progress != nullptr && on_progress(progress_data, done, total) != 0) {
                throw minit2i::Failure(MINIT2I_ERROR_CANCELLED, "cancelled by the caller");
            }
        });
    });
}

minit2i_status minit2i_tokenize(minit2i_client *client, minit2i_text text, int64_t *ids,
                                size_t capacity, size_t *num_ids, int32_t *was_cut) {
    return guarded([&] {
        minit2i_client &known = needed(client, "client");
        needed(num_ids, "num_ids");
        const minit2i::Encoded encoded = known.tokenizer().encode(view_of(text, "text"), 0);
        *num_ids = encoded.ids.size();
        if (capacity < encoded.ids.size()) {
            fail_usage("capacity is " + std::to_string(capacity) + ", but " +
                       std::to_string(encoded.ids.size()) + " ids are there; give more room");
        }
        std::copy(encoded.ids.begin(), encoded.ids.end(), &needed(ids, "ids"));
        if (was_cut != nullptr) {
            *was_cut = encoded.was_cut ? 1 : 0;
        }
    });
}

minit2i_status minit2i_embed(minit2i_client *client, const minit2i_text *texts, size_t num_texts,
                             minit2i_embeddings **embeddings) {
    return guarded([&] {
        minit2i_client &known = needed(client, "client");
        expect_empty(embeddings, "embeddings");
        if (num_texts == 0) {
            fail_usage("0 texts came; at least 1 is needed");
        }
        needed(texts, "texts");
        std::vector<std::string_view> views;
        for (std::size_t index = 0; index < num_texts; ++index) {
            views.push_back(view_of(texts[index], "text"));
        }
        auto result = std::make_unique<minit2i_embeddings>();
        result->embedded = minit2i::embed(known.engine, known.tokenizer(), views, known.warn);
        result->pooled = minit2i::pooled(result->embedded);
        *embeddings = result.release();
    });
}

size_t minit2i_embeddings_num_texts(const minit2i_embeddings *embeddings) {
    return embeddings == nullptr ? 0
                                 : embeddings->embedded.mask.size() / embeddings->embedded.num_tokens;
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

minit2i_status minit2i_noise(uint64_t seed, uint32_t stream, float *values, size_t count) {
    return guarded([&] {
        if (count > 0) {
            minit2i::standard_noise(seed, stream, &needed(values, "values"), count);
        }
    });
}

} // extern "C"
