// The C functions that need no handle.

#include "api/guard.hpp"
#include "common/noise.hpp"
#include "common/version.hpp"

#include <algorithm>
#include <array>

namespace {

thread_local std::string last_error;
thread_local bool last_error_lost = false;

} // namespace

namespace minit2i {

minit2i_status store_error(minit2i_status status, const char *text) noexcept {
    try {
        last_error = text;
        // One line, whatever a library or a file name put into it.
        std::replace(last_error.begin(), last_error.end(), '\n', ' ');
        last_error_lost = false;
    } catch (...) {
        last_error_lost = true;
    }
    return status;
}

} // namespace minit2i

extern "C" {

const char *minit2i_version(void) { return minit2i::kVersion; }

const char *minit2i_status_name(minit2i_status status) {
    static constexpr std::array<const char *, 7> names{"ok",        "usage",  "bundle",  "runtime",
                                                       "cancelled", "memory", "internal"};
    const auto index = static_cast<std::size_t>(status);
    return index < names.size() ? names[index] : "unknown";
}

const char *minit2i_last_error(void) {
    return last_error_lost ? "out of memory" : last_error.c_str();
}

minit2i_status minit2i_noise(uint64_t seed, uint32_t stream, float *values, size_t count) {
    return minit2i::guarded([&] {
        if (count > 0) {
            minit2i::standard_noise(seed, stream, &minit2i::require(values, "values"), count);
        }
    });
}

} // extern "C"
