// Strict JSON: unknown, missing, repeated and non-finite values are refused. Errors are JsonError
// with one line; callers raise them again as a Failure that names the file.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace minit2i {

using Json = nlohmann::json;

class JsonError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

Json parse_json(std::string_view text);

// The value in a form for messages, 60 characters at most.
std::string brief(const Json &value);
// 'text', with what is not printable ASCII escaped, 80 characters at most.
std::string quote(std::string_view text);

// A field of an object, or null where it is missing.
const Json &member(const Json &value, const char *name);

// Refuses unknown and missing fields, and a value that is no object.
void expect_fields(const Json &value, const std::string &where,
                   std::initializer_list<const char *> names);
const Json &expect_object(const Json &value, const std::string &where);
const Json &expect_list(const Json &value, const std::string &where);
std::string expect_text(const Json &value, const std::string &where);
std::int64_t expect_integer(const Json &value, const std::string &where);
// An integer is a number too.
double expect_number(const Json &value, const std::string &where);

} // namespace minit2i
