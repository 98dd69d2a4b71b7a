#include "common/unicode.hpp"

#include "common/failure.hpp"
#include "common/joiners.hpp"

#include <algorithm>
#include <array>

namespace minit2i {
namespace {

bool is_joiner(char32_t c) {
    const auto *after = std::upper_bound(
        kJoiners.begin(), kJoiners.end(), c,
        [](char32_t value, const CharacterRange &range) { return value < range.first; });
    return after != kJoiners.begin() && c <= (after - 1)->last;
}

bool in_any(char32_t c, const CharacterRange *ranges, std::size_t count) {
    return std::any_of(ranges, ranges + count, [c](const CharacterRange &range) {
        return c >= range.first && c <= range.last;
    });
}

// Control of Annex 29, up to U+FFFF: nothing joins these. Those beyond have four bytes, so that
// no cluster they could start is short.
bool is_control(char32_t c) {
    static constexpr std::array<CharacterRange, 10> ranges{{{0x00, 0x1f},
                                                            {0x7f, 0x9f},
                                                            {0xad, 0xad},
                                                            {0x61c, 0x61c},
                                                            {0x180e, 0x180e},
                                                            {0x200b, 0x200b},
                                                            {0x200e, 0x200f},
                                                            {0x2028, 0x202e},
                                                            {0x2060, 0x206f},
                                                            {0xfeff, 0xfeff}}};
    return in_any(c, ranges.data(), ranges.size()) || (c >= 0xfff0 && c <= 0xfffb);
}

// Prepend of Annex 29: they take the next character into their cluster.
bool is_prepended(char32_t c) {
    static constexpr std::array<CharacterRange, 16> ranges{{{0x0600, 0x0605},
                                                            {0x06dd, 0x06dd},
                                                            {0x070f, 0x070f},
                                                            {0x0890, 0x0891},
                                                            {0x08e2, 0x08e2},
                                                            {0x0d4e, 0x0d4e},
                                                            {0x110bd, 0x110bd},
                                                            {0x110cd, 0x110cd},
                                                            {0x111c2, 0x111c3},
                                                            {0x113d1, 0x113d1},
                                                            {0x1193f, 0x1193f},
                                                            {0x11941, 0x11941},
                                                            {0x11a3a, 0x11a3a},
                                                            {0x11a84, 0x11a89},
                                                            {0x11d46, 0x11d46},
                                                            {0x11f02, 0x11f02}}};
    return in_any(c, ranges.data(), ranges.size());
}

std::size_t count_characters(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }));
}

} // namespace

Character decode_at(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t offset) -> unsigned {
        return at + offset < text.size() ? static_cast<unsigned char>(text[at + offset]) : 0;
    };
    const unsigned first = byte(0);
    if (first < 0x80) {
        return {first, 1};
    }
    const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4) {
        return {0, 0};
    }
    char32_t value = first & (0xffU >> (length + 1));
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xc0) != 0x80) {
            return {0, 0};
        }
        value = value << 6 | (byte(i) & 0x3f);
    }
    // Longer forms than needed, surrogates, and what lies beyond Unicode.
    const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
    if (overlong || (value >= 0xd800 && value < 0xe000) || value > 0x10ffff) {
        return {0, 0};
    }
    return {value, length};
}

void check_text(std::string_view text, std::size_t index) {
    const std::string prompt = "prompt " + std::to_string(index);
    const std::size_t nul = text.find('\0');
    if (nul != std::string_view::npos) {
        fail_usage(prompt + " holds a NUL character at position " +
                   std::to_string(count_characters(text.substr(0, nul))) + "; take it out");
    }
    for (std::size_t at = 0; at < text.size();) {
        const Character c = decode_at(text, at);
        if (c.num_bytes == 0) {
            fail_usage(prompt + " is not valid Unicode at position " +
                       std::to_string(count_characters(text.substr(0, at))) + "; pass UTF-8 text");
        }
        at += c.num_bytes;
    }
}

bool is_white_space(char32_t c) {
    static constexpr std::array<CharacterRange, 10> ranges{{{0x09, 0x0d},
                                                            {0x20, 0x20},
                                                            {0x85, 0x85},
                                                            {0xa0, 0xa0},
                                                            {0x1680, 0x1680},
                                                            {0x2000, 0x200a},
                                                            {0x2028, 0x2029},
                                                            {0x202f, 0x202f},
                                                            {0x205f, 0x205f},
                                                            {0x3000, 0x3000}}};
    return in_any(c, ranges.data(), ranges.size());
}

std::size_t cluster_end(std::string_view text, std::size_t at) {
    Character c = decode_at(text, at);
    std::size_t end = at + c.num_bytes;
    if (c.value == U'\r' && end < text.size() && text[end] == '\n') {
        return end + 1;
    }
    while (is_prepended(c.value) && end < text.size()) {
        const Character next = decode_at(text, end);
        if (is_control(next.value)) {
            return end;
        }
        c = next;
        end += next.num_bytes;
    }
    if (is_control(c.value)) {
        return end;
    }
    while (end < text.size()) {
        const Character next = decode_at(text, end);
        if (!is_joiner(next.value)) {
            break;
        }
        end += next.num_bytes;
    }
    return end;
}

} // namespace minit2i
