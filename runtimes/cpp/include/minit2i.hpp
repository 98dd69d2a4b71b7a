// minit2i.h for C++17: the same calls, with owners in place of free functions, options with strings
// and functions in place of pointers, and minit2i::Error in place of status codes. Header only;
// threads and arrays are as minit2i.h says.
#ifndef MINIT2I_HPP
#define MINIT2I_HPP

#include "minit2i.h"

#include <cmath>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace minit2i {

class Error : public std::runtime_error {
public:
    explicit Error(minit2i_status code) : std::runtime_error(minit2i_last_error()), status(code) {}
    minit2i_status status;
};

inline void check(minit2i_status status) {
    if (status != MINIT2I_OK) {
        throw Error(status);
    }
}

inline minit2i_text as_text(std::string_view text) {
    return {text.data() == nullptr ? "" : text.data(), text.size()};
}

inline std::vector<minit2i_text> as_texts(const std::vector<std::string> &texts) {
    std::vector<minit2i_text> result;
    for (const std::string &text : texts) {
        result.push_back(as_text(text));
    }
    return result;
}

// Called after each piece of work with what is done and the total; false cancels.
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;
// Called after each row of the table; false cancels. The frame is valid during the call.
using Preview = std::function<bool(const minit2i_frame &frame)>;
using Warning = std::function<void(const std::string &text)>;

// Fields are those of minit2i_model_params.
struct ModelOptions {
    std::string provider = "cpu";
    std::optional<std::string> plugin;
    std::optional<std::string> precision;
    std::int32_t device = 0;
    std::int32_t num_threads = 0;
    bool lean = false;
    Warning on_warning; // for any thread that uses the model
    std::optional<std::string> cuda_graph;
    std::optional<std::string> cache;
};

// Fields are those of minit2i_embed_params.
struct EmbedOptions {
    std::size_t batch_size = 32;
    Progress on_progress;
};

// Fields are those of minit2i_generate_params; what is empty or unset is left to the bundle.
struct GenerateOptions {
    std::vector<std::string> prompts; // one for each image
    std::vector<std::uint64_t> seeds; // one for each image; empty: all 0
    // Mixed into each prompt, whose own weight is 1: a text and its weight.
    std::vector<std::pair<std::string, double>> also;
    std::optional<std::string> negative;
    std::string preset;
    std::string table;
    double guidance = std::numeric_limits<double>::quiet_NaN();
    double interval_start = std::numeric_limits<double>::quiet_NaN();
    double interval_end = std::numeric_limits<double>::quiet_NaN();
    std::vector<float> noise;
    std::vector<float> init_image;
    double strength = std::numeric_limits<double>::quiet_NaN();
    std::vector<float> known;
    std::vector<float> known_mask;
    std::int32_t width = 0;
    std::int32_t height = 0;
    Progress on_progress;
    Preview on_preview;
};

struct Preset {
    std::string name;
    std::string table;
    double guidance = 1.0;
    bool is_default = false;
};

struct TableInfo {
    std::string name;
    std::uint64_t num_rows = 0;
};

class Embeddings {
public:
    explicit Embeddings(minit2i_embeddings *owned) : handle_(owned, minit2i_embeddings_free) {}
    std::size_t num_texts() const { return minit2i_embeddings_num_texts(handle_.get()); }
    std::size_t num_tokens() const { return minit2i_embeddings_num_tokens(handle_.get()); }
    std::size_t width() const { return minit2i_embeddings_width(handle_.get()); }
    const float *values() const { return minit2i_embeddings_values(handle_.get()); }
    const std::int64_t *mask() const { return minit2i_embeddings_mask(handle_.get()); }
    const float *pooled() const { return minit2i_embeddings_pooled(handle_.get()); }

private:
    std::unique_ptr<minit2i_embeddings, void (*)(minit2i_embeddings *)> handle_;
};

class Images {
public:
    explicit Images(minit2i_images *owned) : handle_(owned, minit2i_images_free) {}
    std::size_t count() const { return minit2i_images_count(handle_.get()); }
    std::size_t size() const { return minit2i_images_size(handle_.get()); }
    std::size_t width() const { return minit2i_images_width(handle_.get()); }
    std::size_t height() const { return minit2i_images_height(handle_.get()); }
    const std::uint8_t *pixels() const { return minit2i_images_pixels(handle_.get()); }
    const float *state() const { return minit2i_images_state(handle_.get()); }
    double step_seconds() const { return minit2i_images_step_seconds(handle_.get()); }
    std::string table() const { return minit2i_images_table(handle_.get()); }
    double guidance() const { return minit2i_images_guidance(handle_.get()); }
    void save_png(std::size_t index, const std::string &path) const {
        check(minit2i_images_save_png(handle_.get(), index, path.c_str()));
    }

private:
    std::unique_ptr<minit2i_images, void (*)(minit2i_images *)> handle_;
};

namespace detail {

inline const char *or_null(const std::string &text) {
    return text.empty() ? nullptr : text.c_str();
}

// Carries an exception of a callback past the C functions, through which none may pass.
struct Calls {
    const Progress *progress = nullptr;
    const Preview *preview = nullptr;
    std::exception_ptr error;

    template <typename Work> int run(Work work) noexcept {
        try {
            return work() ? 0 : 1;
        } catch (...) {
            error = std::current_exception();
            return 1;
        }
    }
    static int on_progress(void *self, std::uint64_t done, std::uint64_t total) {
        auto &calls = *static_cast<Calls *>(self);
        return calls.run([&] { return (*calls.progress)(done, total); });
    }
    static int on_preview(void *self, const minit2i_frame *frame) {
        auto &calls = *static_cast<Calls *>(self);
        return calls.run([&] { return (*calls.preview)(*frame); });
    }
    void check_status(minit2i_status status) const {
        if (error) {
            std::rethrow_exception(error);
        }
        check(status);
    }
};

inline void on_warning(void *self, const char *text) noexcept {
    try {
        (*static_cast<const Warning *>(self))(text);
    } catch (...) {
        // A warning that cannot be reported is dropped.
    }
}

} // namespace detail

// The weights; any number of threads may use one at once, each through a State of its own.
class Model {
public:
    explicit Model(const std::string &bundle, const ModelOptions &options = {})
        : on_warning_(std::make_shared<Warning>(options.on_warning)),
          handle_(nullptr, minit2i_close) {
        minit2i_model_params params;
        check(minit2i_model_params_defaults(&params, sizeof params));
        params.provider = options.provider.c_str();
        params.plugin = options.plugin ? options.plugin->c_str() : nullptr;
        params.precision = options.precision ? options.precision->c_str() : nullptr;
        params.device = options.device;
        params.num_threads = options.num_threads;
        params.lean = options.lean ? 1 : 0;
        params.on_warning = *on_warning_ ? detail::on_warning : nullptr;
        params.warning_data = on_warning_.get();
        params.cuda_graph = options.cuda_graph ? options.cuda_graph->c_str() : nullptr;
        params.cache = options.cache ? options.cache->c_str() : nullptr;
        minit2i_model *opened = nullptr;
        check(minit2i_open(bundle.c_str(), &params, &opened));
        handle_.reset(opened);
    }

    minit2i_info info() const {
        minit2i_info result{};
        result.struct_size = sizeof result;
        check(minit2i_get_info(handle_.get(), &result));
        return result;
    }

    std::vector<Preset> presets() const {
        std::vector<Preset> result;
        for (std::size_t index = 0; index < minit2i_num_presets(handle_.get()); ++index) {
            minit2i_preset preset{};
            preset.struct_size = sizeof preset;
            check(minit2i_get_preset(handle_.get(), index, &preset));
            result.push_back({preset.name, preset.table, preset.guidance, preset.is_default != 0});
        }
        return result;
    }

    std::vector<TableInfo> tables() const {
        std::vector<TableInfo> result;
        for (std::size_t index = 0; index < minit2i_num_tables(handle_.get()); ++index) {
            minit2i_table table{};
            table.struct_size = sizeof table;
            check(minit2i_get_table(handle_.get(), index, &table));
            result.push_back({table.name, table.num_rows});
        }
        return result;
    }

    void verify(const Progress &on_progress = {}) const {
        detail::Calls calls;
        calls.progress = &on_progress;
        calls.check_status(minit2i_verify(
            handle_.get(), on_progress ? detail::Calls::on_progress : nullptr, &calls));
    }

    std::vector<std::int64_t> tokenize(std::string_view text) const {
        std::vector<std::int64_t> ids(static_cast<std::size_t>(info().prompt_length));
        std::size_t count = 0;
        check(minit2i_tokenize(handle_.get(), as_text(text), ids.data(), ids.size(), &count,
                               nullptr));
        ids.resize(count);
        return ids;
    }

    minit2i_model *get() const { return handle_.get(); }
    // Kept by states, which warn through it.
    const std::shared_ptr<Warning> &warning() const { return on_warning_; }

private:
    std::shared_ptr<Warning> on_warning_;
    std::unique_ptr<minit2i_model, void (*)(minit2i_model *)> handle_;
};

// One thread's use of a model, which it keeps in memory.
class State {
public:
    // Without on_warning, warnings go to the model's.
    explicit State(const Model &model, const Warning &on_warning = {})
        : on_warning_(on_warning ? std::make_shared<Warning>(on_warning) : model.warning()),
          model_warning_(model.warning()), handle_(nullptr, minit2i_state_free) {
        minit2i_state_params params;
        check(minit2i_state_params_defaults(&params, sizeof params));
        params.on_warning = on_warning ? detail::on_warning : nullptr;
        params.warning_data = on_warning_.get();
        minit2i_state *created = nullptr;
        check(minit2i_state_new(model.get(), &params, &created));
        handle_.reset(created);
    }

    Embeddings embed(const std::vector<std::string> &texts, const EmbedOptions &options = {}) {
        const std::vector<minit2i_text> views = as_texts(texts);
        detail::Calls calls;
        calls.progress = &options.on_progress;
        minit2i_embed_params params;
        check(minit2i_embed_params_defaults(&params, sizeof params));
        params.texts = views.data();
        params.num_texts = views.size();
        params.batch_size = options.batch_size;
        params.on_progress = options.on_progress ? detail::Calls::on_progress : nullptr;
        params.progress_data = &calls;
        minit2i_embeddings *result = nullptr;
        calls.check_status(minit2i_embed(handle_.get(), &params, &result));
        return Embeddings(result);
    }

    Images generate(const GenerateOptions &options) {
        if (!options.seeds.empty() && options.seeds.size() != options.prompts.size()) {
            throw std::invalid_argument("seeds has " + std::to_string(options.seeds.size()) +
                                        " values for " + std::to_string(options.prompts.size()) +
                                        " prompts; pass one for each, or none");
        }
        std::vector<minit2i_text> prompts;
        std::vector<double> weights{1.0};
        for (const auto &part : options.also) {
            weights.push_back(part.second);
        }
        for (const std::string &prompt : options.prompts) {
            prompts.push_back(as_text(prompt));
            for (const auto &part : options.also) {
                prompts.push_back(as_text(part.first));
            }
        }
        detail::Calls calls;
        calls.progress = &options.on_progress;
        calls.preview = &options.on_preview;
        minit2i_generate_params params;
        check(minit2i_generate_params_defaults(&params, sizeof params));
        params.prompts = prompts.data();
        params.seeds = options.seeds.empty() ? nullptr : options.seeds.data();
        params.num_images = options.prompts.size();
        params.num_parts = weights.size();
        params.weights = weights.data();
        const minit2i_text negative =
            as_text(options.negative ? std::string_view(*options.negative) : std::string_view());
        params.negative = options.negative ? &negative : nullptr;
        params.preset = detail::or_null(options.preset);
        params.table = detail::or_null(options.table);
        params.guidance = options.guidance;
        params.interval_start = options.interval_start;
        params.interval_end = options.interval_end;
        params.noise = options.noise.empty() ? nullptr : options.noise.data();
        params.noise_count = options.noise.size();
        params.init_image = options.init_image.empty() ? nullptr : options.init_image.data();
        params.init_image_count = options.init_image.size();
        params.strength = options.strength;
        params.known = options.known.empty() ? nullptr : options.known.data();
        params.known_count = options.known.size();
        params.known_mask = options.known_mask.empty() ? nullptr : options.known_mask.data();
        params.known_mask_count = options.known_mask.size();
        params.width = options.width;
        params.height = options.height;
        params.on_progress = options.on_progress ? detail::Calls::on_progress : nullptr;
        params.progress_data = &calls;
        params.on_preview = options.on_preview ? detail::Calls::on_preview : nullptr;
        params.preview_data = &calls;
        minit2i_images *result = nullptr;
        calls.check_status(minit2i_generate(handle_.get(), &params, &result));
        return Images(result);
    }

    Images generate(const std::string &prompt, std::uint64_t seed = 0) {
        GenerateOptions options;
        options.prompts = {prompt};
        options.seeds = {seed};
        return generate(options);
    }

    // Ends the call in progress early; for any thread.
    void cancel() { minit2i_cancel(handle_.get()); }

private:
    std::shared_ptr<Warning> on_warning_;
    // What the engine warns through, whose weights the handle keeps.
    std::shared_ptr<Warning> model_warning_;
    std::unique_ptr<minit2i_state, void (*)(minit2i_state *)> handle_;
};

} // namespace minit2i

#endif
