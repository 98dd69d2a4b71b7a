// The one exception inside the library: a status and one line for the caller.
#pragma once

#include "minit2i.h"

#include <stdexcept>
#include <string>

namespace minit2i {

class Failure : public std::runtime_error {
public:
    Failure(minit2i_status code, const std::string &text)
        : std::runtime_error(text), status(code) {}
    minit2i_status status;
};

[[noreturn]] inline void fail_usage(const std::string &text) {
    throw Failure(MINIT2I_ERROR_USAGE, text);
}

[[noreturn]] inline void fail_bundle(const std::string &text) {
    throw Failure(MINIT2I_ERROR_BUNDLE, text);
}

[[noreturn]] inline void fail_runtime(const std::string &text) {
    throw Failure(MINIT2I_ERROR_RUNTIME, text);
}

} // namespace minit2i
