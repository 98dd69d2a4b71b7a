// minit2i.h for C++17: the same calls, with owners in place of free functions and minit2i::Error
// in place of status codes. Header only; threads and arrays are as minit2i.h says.
#ifndef MINIT2I_HPP
#define MINIT2I_HPP

#include "minit2i.h"

#include <memory>
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

class Pictures {
public:
    explicit Pictures(minit2i_pictures *owned) : handle_(owned, minit2i_pictures_free) {}
    std::size_t count() const { return minit2i_pictures_count(handle_.get()); }
    std::size_t size() const { return minit2i_pictures_size(handle_.get()); }
    const std::uint8_t *pixels() const { return minit2i_pictures_pixels(handle_.get()); }
    const float *state() const { return minit2i_pictures_state(handle_.get()); }
    double step_seconds() const { return minit2i_pictures_step_seconds(handle_.get()); }
    std::string table() const { return minit2i_pictures_table(handle_.get()); }
    double guidance() const { return minit2i_pictures_guidance(handle_.get()); }
    void save_png(std::size_t index, const std::string &path) const {
        check(minit2i_pictures_save_png(handle_.get(), index, path.c_str()));
    }

private:
    std::unique_ptr<minit2i_pictures, void (*)(minit2i_pictures *)> handle_;
};

inline minit2i_open_params open_params() {
    minit2i_open_params params;
    check(minit2i_open_params_defaults(&params, sizeof params));
    return params;
}

inline minit2i_generate_params generate_params() {
    minit2i_generate_params params;
    check(minit2i_generate_params_defaults(&params, sizeof params));
    return params;
}

class Client {
public:
    explicit Client(const std::string &bundle) : Client(bundle, open_params()) {}
    Client(const std::string &bundle, const minit2i_open_params &params)
        : handle_(nullptr, minit2i_close) {
        minit2i_client *opened = nullptr;
        check(minit2i_open(bundle.c_str(), &params, &opened));
        handle_.reset(opened);
    }

    minit2i_info info() const {
        minit2i_info result{};
        result.struct_size = sizeof result;
        check(minit2i_get_info(handle_.get(), &result));
        return result;
    }

    void verify(minit2i_progress on_progress = nullptr, void *user_data = nullptr) {
        check(minit2i_verify(handle_.get(), on_progress, user_data));
    }

    std::vector<std::int64_t> tokenize(std::string_view text) {
        std::vector<std::int64_t> ids(static_cast<std::size_t>(info().prompt_length));
        std::size_t count = 0;
        check(minit2i_tokenize(handle_.get(), as_text(text), ids.data(), ids.size(), &count,
                               nullptr));
        ids.resize(count);
        return ids;
    }

    Embeddings embed(const std::vector<std::string> &texts) {
        const std::vector<minit2i_text> views = as_texts(texts);
        minit2i_embeddings *result = nullptr;
        check(minit2i_embed(handle_.get(), views.data(), views.size(), &result));
        return Embeddings(result);
    }

    Pictures generate(const minit2i_generate_params &params) {
        minit2i_pictures *result = nullptr;
        check(minit2i_generate(handle_.get(), &params, &result));
        return Pictures(result);
    }

    Pictures generate(const std::string &prompt, std::uint64_t seed) {
        const minit2i_text text = as_text(prompt);
        minit2i_generate_params params = generate_params();
        params.prompts = &text;
        params.seeds = &seed;
        params.num_pictures = 1;
        return generate(params);
    }

private:
    std::unique_ptr<minit2i_client, void (*)(minit2i_client *)> handle_;
};

} // namespace minit2i

#endif
