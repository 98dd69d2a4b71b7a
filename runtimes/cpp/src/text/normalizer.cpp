#include "text/normalizer.hpp"

#include "common/failure.hpp"
#include "common/unicode.hpp"

#include <cstring>

namespace minit2i {
namespace {

constexpr std::size_t kMaxClusterBytes = 5;

int base64_digit(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *place = c == '\0' ? nullptr : std::strchr(digits, c);
    return place == nullptr ? -1 : static_cast<int>(place - digits);
}

std::string decode_base64(std::string_view text) {
    std::string bytes;
    std::uint32_t bits = 0;
    int num_bits = 0;
    while (!text.empty() && text.back() == '=') {
        text.remove_suffix(1);
    }
    for (const char c : text) {
        const int digit = base64_digit(c);
        if (digit < 0) {
            throw JsonError("precompiled_charsmap is not base64");
        }
        bits = bits << 6 | static_cast<std::uint32_t>(digit);
        num_bits += 6;
        if (num_bits >= 8) {
            num_bits -= 8;
            bytes += static_cast<char>(bits >> num_bits & 0xff);
        }
    }
    return bytes;
}

std::uint32_t read_u32(const std::string &bytes, std::size_t at) {
    std::uint32_t value = 0;
    for (std::size_t i = 4; i-- > 0;) {
        value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
    }
    return value;
}

// Fields of a unit of the double array. Source: the darts-clone library's format.
std::size_t offset_of(std::uint32_t unit) {
    return static_cast<std::size_t>(unit >> 10) << ((unit & (1U << 9)) >> 6);
}

std::string replace(std::string_view text, const std::string &pattern, const std::string &content) {
    std::string result;
    std::size_t at = 0;
    for (std::size_t next = text.find(pattern); next != std::string_view::npos;
         next = text.find(pattern, at)) {
        result.append(text.substr(at, next - at)).append(content);
        at = next + pattern.size();
    }
    return result.append(text.substr(at));
}

// Runs of two spaces or more become one content.
std::string replace_spaces(std::string_view text, const std::string &content) {
    std::string result;
    for (std::size_t at = 0; at < text.size();) {
        std::size_t end = at;
        while (end < text.size() && text[end] == ' ') {
            ++end;
        }
        if (end - at >= 2) {
            result += content;
            at = end;
        } else {
            result += text[at++];
        }
    }
    return result;
}

std::string_view strip_left(std::string_view text) {
    while (!text.empty()) {
        const Character c = decode_at(text, 0);
        if (!is_white_space(c.value)) {
            break;
        }
        text.remove_prefix(c.num_bytes);
    }
    return text;
}

std::string_view strip_right(std::string_view text) {
    while (!text.empty()) {
        std::size_t start = text.size() - 1;
        while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xc0) == 0x80) {
            --start;
        }
        if (!is_white_space(decode_at(text, start).value)) {
            break;
        }
        text.remove_suffix(text.size() - start);
    }
    return text;
}

// Later steps walk from character to character and would never end on broken ones.
std::string checked(std::string text) {
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t num_bytes = decode_at(text, at).num_bytes;
        if (num_bytes == 0) {
            fail_bundle("tokenizer.json: precompiled_charsmap gives broken UTF-8; re-run minit2i "
                        "export");
        }
        at += num_bytes;
    }
    return text;
}

} // namespace

Charsmap::Charsmap(const std::string &bytes) {
    const std::size_t trie_bytes = bytes.size() < 4 ? 0 : read_u32(bytes, 0);
    if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > bytes.size() - 4) {
        throw JsonError("precompiled_charsmap is corrupt");
    }
    for (std::size_t at = 4; at < 4 + trie_bytes; at += 4) {
        units_.push_back(read_u32(bytes, at));
    }
    texts_ = bytes.substr(4 + trie_bytes);
}

const char *Charsmap::find(std::string_view text) const {
    std::size_t node = offset_of(units_[0]);
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        node ^= byte;
        if (node >= units_.size() || (units_[node] & (1U << 31 | 0xffU)) != byte) {
            return nullptr;
        }
        const bool has_leaf = (units_[node] >> 8 & 1) != 0;
        node ^= offset_of(units_[node]);
        if (has_leaf) {
            const std::size_t at =
                node < units_.size() ? units_[node] & ~(1U << 31) : texts_.size();
            return at < texts_.size() ? texts_.c_str() + at : "";
        }
    }
    return nullptr;
}

// The tokenizers library looks up a short cluster at once and, unlike SentencePiece, takes the
// shortest entry that starts it and drops the rest. Equal ids need the same here.
std::string Charsmap::apply(std::string_view text) const {
    std::string result;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = cluster_end(text, at);
        const std::string_view cluster = text.substr(at, end - at);
        const char *replacement = cluster.size() <= kMaxClusterBytes ? find(cluster) : nullptr;
        if (replacement != nullptr) {
            result += replacement;
            at = end;
        }
        while (at < end) {
            const std::string_view one = text.substr(at, decode_at(text, at).num_bytes);
            const char *single = find(one);
            result.append(single != nullptr ? std::string_view(single) : one);
            at += one.size();
        }
    }
    return checked(std::move(result));
}

Normalizer::Normalizer(const Json &value) {
    if (!value.is_null()) {
        add(value);
    }
}

void Normalizer::add(const Json &value) {
    const std::string type = expect_text(member(value, "type"), "normalizer.type");
    if (type == "Sequence") {
        for (const Json &item : expect_list(member(value, "normalizers"), "normalizers")) {
            add(expect_object(item, "normalizers"));
        }
    } else if (type == "Precompiled") {
        charsmaps_.emplace_back(decode_base64(
            expect_text(member(value, "precompiled_charsmap"), "precompiled_charsmap")));
        steps_.push_back({Kind::kCharsmap, charsmaps_.size() - 1, "", ""});
    } else if (type == "Strip") {
        if (value.value("strip_left", false)) {
            steps_.push_back({Kind::kStripLeft, 0, "", ""});
        }
        if (value.value("strip_right", false)) {
            steps_.push_back({Kind::kStripRight, 0, "", ""});
        }
    } else if (type == "Replace") {
        add_replace(value);
    } else {
        throw JsonError("normalizer " + quote(type) + " is not one of a T5 tokenizer");
    }
}

void Normalizer::add_replace(const Json &value) {
    const Json &pattern = member(value, "pattern");
    const std::string content = expect_text(member(value, "content"), "normalizer.content");
    if (pattern == Json{{"Regex", " {2,}"}}) {
        steps_.push_back({Kind::kReplaceSpaces, 0, "", content});
        return;
    }
    if (!pattern.is_object() || !pattern.contains("String")) {
        throw JsonError("normalizer pattern " + brief(pattern) + " is not one of a T5 tokenizer");
    }
    std::string text = expect_text(pattern.at("String"), "normalizer.pattern");
    if (text.empty()) {
        throw JsonError("normalizer pattern is empty");
    }
    steps_.push_back({Kind::kReplace, 0, std::move(text), content});
}

std::string Normalizer::apply(std::string_view original) const {
    std::string text(original);
    for (const Step &step : steps_) {
        switch (step.kind) {
        case Kind::kCharsmap:
            text = charsmaps_[step.charsmap].apply(text);
            break;
        case Kind::kStripLeft:
            text = std::string(strip_left(text));
            break;
        case Kind::kStripRight:
            text = std::string(strip_right(text));
            break;
        case Kind::kReplace:
            text = replace(text, step.pattern, step.content);
            break;
        case Kind::kReplaceSpaces:
            text = replace_spaces(text, step.content);
            break;
        }
    }
    return text;
}

} // namespace minit2i
