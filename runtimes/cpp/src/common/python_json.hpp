// JSON as Python's json.dumps writes it (sorted keys, ASCII), so that hashes and records made here
// are those that the Python side makes.
#pragma once

#include "common/json.hpp"

#include <string>

namespace minit2i {

std::string python_json(const Json &value);

// A text in quotes, as Python's repr writes it; of what lies beyond ASCII only the control
// characters are escaped, where Python escapes a few more that are not printable.
std::string python_repr(const std::string &text);

// The shortest decimal that reads back as the same number, in Python's notation.
std::string python_float(double value);

// As %g writes a number, and %f: with a point, which the host program's locale would change.
std::string short_float(double value, int num_digits = 6);
std::string fixed_float(double value, int num_digits);

} // namespace minit2i
