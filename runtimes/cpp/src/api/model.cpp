// The C functions on models.

#include "api/guard.hpp"
#include "api/handles.hpp"

#include <algorithm>
#include <iterator>
#include <memory>

using minit2i::fail_usage;
using minit2i::guarded;
using minit2i::require;
using minit2i::write_struct;

namespace {

// More than any one machine has cores; the engine starts as many as this says.
constexpr std::int32_t kMaxThreads = 4096;

minit2i_model_params default_params() {
    minit2i_model_params params{};
    params.struct_size = sizeof params;
    params.provider = "cpu";
    return params;
}

int checked_threads(std::int32_t count) {
    if (count < 0 || count > kMaxThreads) {
        fail_usage("num_threads is " + std::to_string(count) + ", but 0 (all cores) to " +
                   std::to_string(kMaxThreads) + " is needed");
    }
    return count;
}

const minit2i::Manifest &manifest_of(const minit2i_model *model) {
    return require(model, "model").shared->bundle.manifest;
}

// The entry of a map at an index, in the order of the names.
template <typename Map>
const typename Map::value_type &entry_at(const Map &entries, std::size_t index, const char *what) {
    if (index >= entries.size()) {
        fail_usage("index is " + std::to_string(index) + ", but there are " +
                   std::to_string(entries.size()) + " " + what + ", counted from 0");
    }
    return *std::next(entries.begin(), static_cast<std::ptrdiff_t>(index));
}

} // namespace

minit2i::Model::Model(const char *path, const minit2i_model_params &params)
    : warn(warn_of(params.on_warning, params.warning_data)), bundle(path),
      engine(bundle,
             checked_choice(params.provider, params.plugin, params.precision, params.device,
                            params.cuda_graph, params.cache),
             checked_threads(params.num_threads), params.lean != 0, warn) {}

const minit2i::Tokenizer &minit2i::Model::tokenizer() const {
    const std::lock_guard<std::mutex> lock(tokenizer_mutex_);
    if (!tokenizer_) {
        tokenizer_.emplace(
            Tokenizer::open(bundle.tokenizer_path(), bundle.manifest.model.prompt_length));
    }
    return *tokenizer_;
}

extern "C" {

minit2i_status minit2i_model_params_defaults(minit2i_model_params *params, size_t size) {
    return guarded([&] { write_struct(&require(params, "params"), default_params(), size); });
}

minit2i_status minit2i_open(const char *bundle, const minit2i_model_params *params,
                            minit2i_model **model) {
    return guarded([&] {
        require(bundle, "bundle");
        minit2i::require_empty(model, "model");
        const minit2i_model_params settings =
            params == nullptr ? default_params() : minit2i::read_struct(*params, default_params());
        auto opened = std::make_unique<minit2i_model>();
        opened->shared = std::make_shared<const minit2i::Model>(bundle, settings);
        *model = opened.release();
    });
}

void minit2i_close(minit2i_model *model) { delete model; }

minit2i_status minit2i_get_info(const minit2i_model *model, minit2i_info *info) {
    return guarded([&] {
        const minit2i::Manifest &manifest = manifest_of(model);
        minit2i_info values{};
        values.image_size = static_cast<std::int32_t>(manifest.model.size.height);
        values.prompt_length = static_cast<std::int32_t>(manifest.model.prompt_length);
        values.embedding_width = static_cast<std::int32_t>(manifest.model.txt_input_size);
        values.is_student = manifest.model.is_student ? 1 : 0;
        values.digest = model->shared->bundle.digest.c_str();
        values.default_preset = manifest.default_preset.c_str();
        values.image_width = static_cast<std::int32_t>(manifest.model.size.width);
        values.patch_size = static_cast<std::int32_t>(manifest.model.patch_size);
        if (manifest.side_bounds) {
            values.min_side = static_cast<std::int32_t>(manifest.side_bounds->first);
            values.max_side = static_cast<std::int32_t>(manifest.side_bounds->second);
        }
        write_struct(info, values, require(info, "info").struct_size);
    });
}

size_t minit2i_num_presets(const minit2i_model *model) {
    return model == nullptr ? 0 : manifest_of(model).presets.size();
}

minit2i_status minit2i_get_preset(const minit2i_model *model, size_t index,
                                  minit2i_preset *preset) {
    return guarded([&] {
        const minit2i::Manifest &manifest = manifest_of(model);
        const auto &[name, entry] = entry_at(manifest.presets, index, "presets");
        minit2i_preset values{};
        values.name = name.c_str();
        values.table = entry.table.c_str();
        values.guidance = entry.guidance;
        values.is_default = name == manifest.default_preset ? 1 : 0;
        write_struct(preset, values, require(preset, "preset").struct_size);
    });
}

size_t minit2i_num_tables(const minit2i_model *model) {
    return model == nullptr ? 0 : manifest_of(model).tables.size();
}

minit2i_status minit2i_get_table(const minit2i_model *model, size_t index, minit2i_table *table) {
    return guarded([&] {
        const std::string &name = entry_at(manifest_of(model).tables, index, "tables").first;
        minit2i_table values{};
        values.name = name.c_str();
        values.num_rows = model->shared->bundle.table(name).size();
        write_struct(table, values, require(table, "table").struct_size);
    });
}

minit2i_status minit2i_verify(const minit2i_model *model, minit2i_progress on_progress,
                              void *progress_data) {
    return guarded([&] {
        require(model, "model")
            .shared->bundle.verify(minit2i::progress_of(on_progress, progress_data, "byte"));
    });
}

minit2i_status minit2i_tokenize(const minit2i_model *model, minit2i_text text, int64_t *ids,
                                size_t capacity, size_t *num_ids, int32_t *was_cut) {
    return guarded([&] {
        const minit2i::Tokenizer &tokenizer = require(model, "model").shared->tokenizer();
        require(num_ids, "num_ids");
        const minit2i::Encoded encoded = tokenizer.encode(minit2i::view_of(text, "text"), 0);
        *num_ids = encoded.ids.size();
        if (capacity < encoded.ids.size()) {
            fail_usage("capacity is " + std::to_string(capacity) + ", but there are " +
                       std::to_string(encoded.ids.size()) + " ids; pass a larger array");
        }
        std::copy(encoded.ids.begin(), encoded.ids.end(), &require(ids, "ids"));
        if (was_cut != nullptr) {
            *was_cut = encoded.was_cut ? 1 : 0;
        }
    });
}

} // extern "C"
