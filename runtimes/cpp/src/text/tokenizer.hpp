// Prompts to T5 token ids, from the tokenizer.json that the Python side reads too.
#pragma once

#include "text/normalizer.hpp"
#include "text/unigram.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace minit2i {

struct Encoded {
    std::vector<std::int64_t> ids; // the end token last
    bool was_cut = false;
};

class Tokenizer {
public:
    // Throws a bundle failure if the file is not a T5 tokenizer.
    static Tokenizer open(const std::filesystem::path &path, std::int64_t prompt_length);
    // The same of the file's text; name is the file's, for the message.
    static Tokenizer read(const std::string &text, const std::string &name,
                          std::int64_t prompt_length);

    // index is the prompt's, for the message.
    Encoded encode(std::string_view text, std::size_t index) const;
    // The end of what the ids stand for, in the tokenizer's own spelling; at most 20 bytes.
    std::string tail(const Encoded &encoded) const;
    std::int64_t pad_id() const { return pad_id_; }
    std::int64_t prompt_length() const { return prompt_length_; }

private:
    struct AddedToken {
        std::string content;
        std::int64_t id = 0;
        bool lstrip = false;
        bool rstrip = false;
    };
    enum class Prepend { kNever, kFirst, kAlways };

    Tokenizer(const Json &value, std::int64_t prompt_length);
    void read_added_tokens(const Json &value);
    void read_pre_tokenizer(const Json &value);
    std::int64_t special_id(const std::string &content) const;
    const AddedToken *added_at(std::string_view text, std::size_t at) const;
    void encode_plain(std::string_view text, bool is_first, std::vector<std::int64_t> &ids) const;
    void encode_word(std::string word, bool is_first, std::vector<std::int64_t> &ids) const;

    Normalizer normalizer_;
    Unigram model_;
    std::vector<AddedToken> added_;
    std::string replacement_;
    Prepend prepend_ = Prepend::kAlways;
    bool splits_words_ = false; // at white space, before the replacement
    bool splits_pieces_ = true; // before each replacement
    std::int64_t eos_id_ = 0;
    std::int64_t pad_id_ = 0;
    std::int64_t prompt_length_ = 0;
};

} // namespace minit2i
