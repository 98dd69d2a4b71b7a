#include "text/tokenizer.hpp"

#include "common/failure.hpp"
#include "common/files.hpp"
#include "common/unicode.hpp"

#include <algorithm>

namespace minit2i {
namespace {

constexpr std::size_t kTailBytes = 20;

// Where white space that ends at a byte begins, but not before a floor.
std::size_t white_start(std::string_view text, std::size_t floor, std::size_t end) {
    while (end > floor) {
        std::size_t start = end - 1;
        while (start > floor && (static_cast<unsigned char>(text[start]) & 0xc0) == 0x80) {
            --start;
        }
        if (!is_white_space(decode_at(text, start).value)) {
            break;
        }
        end = start;
    }
    return end;
}

std::size_t white_end(std::string_view text, std::size_t start) {
    while (start < text.size()) {
        const Character c = decode_at(text, start);
        if (!is_white_space(c.value)) {
            break;
        }
        start += c.num_bytes;
    }
    return start;
}

} // namespace

Tokenizer Tokenizer::open(const std::filesystem::path &path, std::int64_t prompt_length) {
    std::string bytes;
    if (!read_file(path, bytes)) {
        fail_bundle(path.string() + ": cannot be read");
    }
    return read(bytes, path.string(), prompt_length);
}

Tokenizer Tokenizer::read(const std::string &text, const std::string &name,
                          std::int64_t prompt_length) {
    try {
        return {parse_json(text), prompt_length};
    } catch (const JsonError &error) {
        fail_bundle(name + ": not a tokenizer (" + error.what() + "); re-run minit2i export");
    } catch (const Json::exception &error) {
        fail_bundle(name + ": not a tokenizer; re-run minit2i export");
    }
}

Tokenizer::Tokenizer(const Json &value, std::int64_t prompt_length)
    : normalizer_(member(expect_object(value, "tokenizer"), "normalizer")),
      model_(expect_object(member(value, "model"), "model")), prompt_length_(prompt_length) {
    read_added_tokens(expect_list(member(value, "added_tokens"), "added_tokens"));
    read_pre_tokenizer(expect_object(member(value, "pre_tokenizer"), "pre_tokenizer"));
    // An empty one is found everywhere, also between the bytes of a character.
    if (replacement_.empty()) {
        throw JsonError("pre_tokenizer has no Metaspace, so it is not T5's");
    }
    eos_id_ = special_id("</s>");
    pad_id_ = special_id("<pad>");
}

void Tokenizer::read_added_tokens(const Json &value) {
    for (const Json &entry : value) {
        AddedToken token;
        token.content = expect_text(member(entry, "content"), "added_tokens.content");
        token.id = expect_integer(member(entry, "id"), "added_tokens.id");
        token.lstrip = entry.value("lstrip", false);
        token.rstrip = entry.value("rstrip", false);
        if (token.content.empty() || entry.value("single_word", false) ||
            entry.value("normalized", false)) {
            throw JsonError("added token " + quote(token.content) +
                            " is matched in a way that T5's are not");
        }
        added_.push_back(std::move(token));
    }
    // Where two start at the same place, the longer one is meant.
    std::stable_sort(added_.begin(), added_.end(), [](const auto &a, const auto &b) {
        return a.content.size() > b.content.size();
    });
}

void Tokenizer::read_pre_tokenizer(const Json &value) {
    const std::string type = expect_text(member(value, "type"), "pre_tokenizer.type");
    if (type == "Sequence") {
        for (const Json &item : expect_list(member(value, "pretokenizers"), "pretokenizers")) {
            read_pre_tokenizer(expect_object(item, "pretokenizers"));
        }
        return;
    }
    if (type == "WhitespaceSplit" && replacement_.empty()) {
        splits_words_ = true;
        return;
    }
    if (type != "Metaspace" || !replacement_.empty()) {
        throw JsonError("pre_tokenizer " + quote(type) + " is not one of a T5 tokenizer");
    }
    replacement_ = expect_text(member(value, "replacement"), "pre_tokenizer.replacement");
    splits_pieces_ = value.value("split", true);
    const bool adds_space = value.value("add_prefix_space", true);
    const std::string scheme = value.value("prepend_scheme", adds_space ? "always" : "never");
    prepend_ = scheme == "always"  ? Prepend::kAlways
               : scheme == "first" ? Prepend::kFirst
                                   : Prepend::kNever;
    const bool is_known = prepend_ != Prepend::kNever || scheme == "never";
    // Which word is the first one depends on white space that is gone after the split.
    if (!is_known || replacement_.empty() || (splits_words_ && prepend_ == Prepend::kFirst)) {
        throw JsonError("pre_tokenizer Metaspace has settings that T5's does not have");
    }
}

std::int64_t Tokenizer::special_id(const std::string &content) const {
    for (const AddedToken &token : added_) {
        if (token.content == content) {
            return token.id;
        }
    }
    const std::int64_t id = model_.find(content);
    if (id < 0) {
        throw JsonError("has no token " + content + ", so it is not T5's");
    }
    return id;
}

const Tokenizer::AddedToken *Tokenizer::added_at(std::string_view text, std::size_t at) const {
    for (const AddedToken &token : added_) {
        if (text.compare(at, token.content.size(), token.content) == 0) {
            return &token;
        }
    }
    return nullptr;
}

Encoded Tokenizer::encode(std::string_view text, std::size_t index) const {
    check_text(text, index);
    Encoded result;
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
        const AddedToken *token = added_at(text, at);
        if (token == nullptr) {
            ++at;
            continue;
        }
        const std::size_t start = token->lstrip ? white_start(text, done, at) : at;
        encode_plain(text.substr(done, start - done), done == 0, result.ids);
        result.ids.push_back(token->id);
        at += token->content.size();
        done = token->rstrip ? white_end(text, at) : at;
        at = done;
    }
    encode_plain(text.substr(done), done == 0, result.ids);
    const auto limit = static_cast<std::size_t>(prompt_length_ - 1);
    result.was_cut = result.ids.size() > limit;
    result.ids.resize(std::min(result.ids.size(), limit));
    result.ids.push_back(eos_id_);
    return result;
}

std::string Tokenizer::tail(const Encoded &encoded) const {
    std::string text;
    for (std::size_t index = 0; index + 1 < encoded.ids.size(); ++index) {
        const std::int64_t id = encoded.ids[index];
        const auto token = std::find_if(added_.begin(), added_.end(),
                                        [id](const AddedToken &known) { return known.id == id; });
        text += token != added_.end() ? std::string_view(token->content) : model_.piece(id);
    }
    for (std::size_t at = text.find(replacement_); at != std::string::npos;
         at = text.find(replacement_, at)) {
        text.replace(at, replacement_.size(), " ");
    }
    std::size_t start = text.size() - std::min(text.size(), kTailBytes);
    while (start < text.size() && (static_cast<unsigned char>(text[start]) & 0xc0) == 0x80) {
        ++start;
    }
    return text.substr(start);
}

void Tokenizer::encode_plain(std::string_view text, bool is_first,
                             std::vector<std::int64_t> &ids) const {
    const std::string normal = normalizer_.apply(text);
    if (!splits_words_) {
        encode_word(normal, is_first, ids);
        return;
    }
    for (std::size_t start = white_end(normal, 0); start < normal.size();) {
        std::size_t end = start;
        while (end < normal.size() && !is_white_space(decode_at(normal, end).value)) {
            end += decode_at(normal, end).num_bytes;
        }
        encode_word(normal.substr(start, end - start), is_first, ids);
        start = white_end(normal, end);
    }
}

void Tokenizer::encode_word(std::string word, bool is_first, std::vector<std::int64_t> &ids) const {
    if (word.empty()) {
        return;
    }
    for (std::size_t at = word.find(' '); at != std::string::npos; at = word.find(' ', at)) {
        word.replace(at, 1, replacement_);
        at += replacement_.size();
    }
    const bool prepends = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && is_first);
    if (prepends && word.compare(0, replacement_.size(), replacement_) != 0) {
        word.insert(0, replacement_);
    }
    const std::string_view view = word;
    std::size_t start = 0;
    while (splits_pieces_ && start < view.size()) {
        const std::size_t end = view.find(replacement_, start + 1);
        model_.encode(view.substr(start, end - start), ids);
        start = end == std::string_view::npos ? view.size() : end;
    }
    if (!splits_pieces_) {
        model_.encode(view, ids);
    }
}

} // namespace minit2i
