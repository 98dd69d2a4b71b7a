#include "common/json.hpp"

#include <cmath>
#include <set>
#include <vector>

namespace minit2i {
namespace {

constexpr int kMaxDepth = 200;
constexpr std::size_t kMaxBrief = 60;
constexpr std::size_t kMaxQuoted = 80;
constexpr double kMaxExact = 9007199254740992.0; // 2^53

[[noreturn]] void fail_type(const Json &value, const std::string &where, const char *expected) {
    throw JsonError(where + " is " + brief(value) + ", but " + expected + " is needed");
}

// Called by the parser at every event; keeps the keys of each open object.
class KeyCheck {
public:
    bool operator()(int depth, Json::parse_event_t event, const Json &parsed) {
        if (depth > kMaxDepth) {
            throw JsonError("nested too deeply");
        }
        if (event == Json::parse_event_t::object_start) {
            open_.emplace_back();
        } else if (event == Json::parse_event_t::object_end) {
            open_.pop_back();
        } else if (event == Json::parse_event_t::key) {
            const auto &key = parsed.get_ref<const std::string &>();
            if (!open_.back().insert(key).second) {
                throw JsonError("key " + quote(key) + " is there twice");
            }
        }
        return true;
    }

private:
    std::vector<std::set<std::string>> open_;
};

} // namespace

Json parse_json(std::string_view text) {
    // The library would skip a byte order mark.
    if (text.substr(0, 3) == "\xEF\xBB\xBF") {
        throw JsonError("starts with a byte order mark");
    }
    KeyCheck check;
    try {
        return Json::parse(text.begin(), text.end(),
                           [&check](int depth, Json::parse_event_t event, Json &parsed) {
                               return check(depth, event, parsed);
                           });
    } catch (const Json::parse_error &error) {
        throw JsonError("not JSON at byte " + std::to_string(error.byte));
    } catch (const Json::exception &) {
        throw JsonError("holds a number that is too large");
    }
}

std::string quote(std::string_view text) {
    static const char digits[] = "0123456789abcdef";
    std::string result = "'";
    for (const char c : text.substr(0, kMaxQuoted)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte < 0x7f) {
            result += c;
        } else {
            result += "\\x";
            result += digits[byte >> 4];
            result += digits[byte & 15];
        }
    }
    return result + "'";
}

std::string brief(const Json &value) {
    if (value.is_string()) {
        return quote(std::string_view(value.get_ref<const std::string &>()).substr(0, kMaxBrief));
    }
    const std::string text = value.dump(-1, ' ', true);
    return text.size() <= kMaxBrief ? text : text.substr(0, kMaxBrief - 3) + "...";
}

const Json &member(const Json &value, const char *name) {
    static const Json null;
    const auto item = value.find(name);
    return item == value.end() ? null : *item;
}

void expect_fields(const Json &value, const std::string &where,
                   std::initializer_list<const char *> names) {
    expect_object(value, where);
    for (const auto &item : value.items()) {
        bool is_known = false;
        for (const char *name : names) {
            is_known = is_known || item.key() == name;
        }
        if (!is_known) {
            throw JsonError(where + ": unknown field " + quote(item.key()));
        }
    }
    for (const char *name : names) {
        if (!value.contains(name)) {
            throw JsonError(where + ": missing field " + quote(name));
        }
    }
}

const Json &expect_object(const Json &value, const std::string &where) {
    if (!value.is_object()) {
        fail_type(value, where, "an object");
    }
    return value;
}

const Json &expect_list(const Json &value, const std::string &where) {
    if (!value.is_array()) {
        fail_type(value, where, "a list");
    }
    return value;
}

std::string expect_text(const Json &value, const std::string &where) {
    if (!value.is_string()) {
        fail_type(value, where, "text");
    }
    return value.get<std::string>();
}

std::int64_t expect_integer(const Json &value, const std::string &where) {
    // Unsigned values above 2^63 would wrap around.
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
        fail_type(value, where, "an integer");
    }
    return value.get<std::int64_t>();
}

double expect_number(const Json &value, const std::string &where) {
    if (!value.is_number()) {
        fail_type(value, where, "a finite number");
    }
    const double number = value.get<double>();
    if (!std::isfinite(number) || (value.is_number_integer() && std::fabs(number) >= kMaxExact)) {
        fail_type(value, where, "a finite number");
    }
    return number;
}

} // namespace minit2i
