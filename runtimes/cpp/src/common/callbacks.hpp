// Callbacks inside the library; the C functions of a caller are wrapped into these.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace minit2i {

// Throws a Failure with MINIT2I_ERROR_CANCELLED where the caller cancels.
using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

using Warn = std::function<void(const std::string &text)>;

} // namespace minit2i
