#include "common/python_json.hpp"

#include "common/unicode.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace minit2i {
namespace {

std::string formatted(double value, std::chars_format format, int num_digits) {
    std::array<char, 400> text{};
    const auto end =
        std::to_chars(text.data(), text.data() + text.size(), value, format, num_digits);
    return {text.data(), end.ptr};
}

std::string escape_unit(std::uint32_t unit) {
    std::array<char, 16> text{};
    std::snprintf(text.data(), text.size(), "\\u%04x", static_cast<unsigned>(unit));
    return text.data();
}

std::string escaped(char32_t c) {
    switch (c) {
    case U'"':
        return "\\\"";
    case U'\\':
        return "\\\\";
    case U'\n':
        return "\\n";
    case U'\r':
        return "\\r";
    case U'\t':
        return "\\t";
    case U'\f':
        return "\\f";
    case U'\b':
        return "\\b";
    default:
        break;
    }
    if (c >= 0x20 && c < 0x7f) {
        return std::string(1, static_cast<char>(c));
    }
    if (c < 0x10000) {
        return escape_unit(c);
    }
    const char32_t rest = c - 0x10000;
    return escape_unit(0xd800 + (rest >> 10)) + escape_unit(0xdc00 + (rest & 0x3ff));
}

std::string quote_text(const std::string &text) {
    std::string result = "\"";
    for (std::size_t at = 0; at < text.size();) {
        const Character c = decode_at(text, at);
        result += escaped(c.value);
        at += c.num_bytes;
    }
    return result + "\"";
}

std::string repr_of(char32_t c) {
    std::array<char, 16> text{};
    if (c == U'\\' || c == U'\n' || c == U'\r' || c == U'\t') {
        return escaped(c);
    }
    std::snprintf(text.data(), text.size(), "\\x%02x", static_cast<unsigned>(c));
    return text.data();
}

} // namespace

std::string python_repr(const std::string &text) {
    const bool has_single = text.find('\'') != std::string::npos;
    const char quote = has_single && text.find('"') == std::string::npos ? '"' : '\'';
    std::string result(1, quote);
    for (std::size_t at = 0; at < text.size();) {
        const Character c = decode_at(text, at);
        const bool is_control = c.value < 0x20 || (c.value >= 0x7f && c.value <= 0xa0);
        if (c.value == static_cast<char32_t>(quote)) {
            result += std::string("\\") + quote;
        } else if (c.value == U'\\' || is_control || c.value == 0xad) {
            result += repr_of(c.value);
        } else {
            result += text.substr(at, c.num_bytes);
        }
        at += c.num_bytes;
    }
    return result + quote;
}

std::string python_float(double value) {
    if (!std::isfinite(value)) {
        return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
    }
    std::array<char, 40> buffer{};
    const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                   std::chars_format::scientific);
    const std::string text(buffer.data(), end.ptr);
    const std::size_t mark = text.find('e');
    const int exponent = std::stoi(text.substr(mark + 1));
    const bool negative = text[0] == '-';
    std::string digits;
    for (const char c : text.substr(negative ? 1 : 0, mark - (negative ? 1 : 0))) {
        if (c != '.') {
            digits += c;
        }
    }
    const std::string sign = negative ? "-" : "";
    // Python changes notation where repr does: below 1e-4 and from 1e16 on.
    if (exponent < -4 || exponent >= 16) {
        const std::string fraction = digits.size() > 1 ? "." + digits.substr(1) : "";
        return sign + digits.substr(0, 1) + fraction + text.substr(mark);
    }
    if (exponent < 0) {
        return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    }
    const auto num_integer_digits = static_cast<std::size_t>(exponent) + 1;
    if (digits.size() <= num_integer_digits) {
        return sign + digits + std::string(num_integer_digits - digits.size(), '0') + ".0";
    }
    return sign + digits.substr(0, num_integer_digits) + "." + digits.substr(num_integer_digits);
}

std::string short_float(double value, int num_digits) {
    return formatted(value, std::chars_format::general, num_digits);
}

std::string fixed_float(double value, int num_digits) {
    return formatted(value, std::chars_format::fixed, num_digits);
}

std::string python_json(const Json &value) {
    if (value.is_string()) {
        return quote_text(value.get_ref<const std::string &>());
    }
    if (value.is_number_float()) {
        return python_float(value.get<double>());
    }
    if (!value.is_structured()) {
        return value.dump();
    }
    std::string result(1, value.is_array() ? '[' : '{');
    bool first = true;
    // The library keeps keys sorted by their bytes, which is by code point, as Python sorts.
    for (const auto &item : value.items()) {
        result += first ? "" : ", ";
        first = false;
        result += value.is_array() ? "" : quote_text(item.key()) + ": ";
        result += python_json(item.value());
    }
    return result + (value.is_array() ? "]" : "}");
}

} // namespace minit2i
