// The edge between exceptions inside and status codes outside, and checks of C arguments.
#pragma once

#include "common/callbacks.hpp"
#include "common/failure.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <string_view>

namespace minit2i {

// Stores the text for minit2i_last_error; a text that cannot be stored leaves a fixed one.
minit2i_status store_error(minit2i_status status, const char *text) noexcept;

template <typename Work> minit2i_status guarded(Work work) noexcept {
    try {
        store_error(MINIT2I_OK, "");
        work();
        return MINIT2I_OK;
    } catch (const Failure &error) {
        return store_error(error.status, error.what());
    } catch (const std::bad_alloc &) {
        return store_error(MINIT2I_ERROR_MEMORY,
                           "out of memory; free some, or use a smaller batch");
    } catch (const std::exception &error) {
        return store_error(MINIT2I_ERROR_INTERNAL, error.what());
    } catch (...) {
        return store_error(MINIT2I_ERROR_INTERNAL, "an unknown exception was thrown");
    }
}

template <typename T> T &require(T *pointer, const char *name) {
    if (pointer == nullptr) {
        fail_usage(std::string(name) + " is NULL, but a pointer is needed");
    }
    return *pointer;
}

// An output that still owns something would leak.
template <typename T> void require_empty(T **output, const char *name) {
    if (require(output, name) != nullptr) {
        fail_usage(std::string("*") + name + " is not NULL; free it and set it to NULL first");
    }
}

// Fills a caller's struct of the caller's size.
template <typename T> void write_struct(T *to, const T &values, std::size_t size) {
    if (size < sizeof(std::size_t)) {
        fail_usage("struct_size is " + std::to_string(size) + "; pass sizeof of the struct");
    }
    T copy = values;
    copy.struct_size = size;
    std::memset(static_cast<void *>(to), 0, size);
    std::memcpy(static_cast<void *>(to), &copy, std::min(size, sizeof(T)));
}

// The part of a caller's struct that this library knows; what an older caller lacks is default.
template <typename T> T read_struct(const T &from, const T &defaults) {
    const std::size_t size = from.struct_size;
    if (size < sizeof(std::size_t)) {
        fail_usage("struct_size is " + std::to_string(size) +
                   "; fill the struct with its _defaults function first");
    }
    const auto *bytes = reinterpret_cast<const unsigned char *>(&from);
    for (std::size_t at = sizeof(T); at < size; ++at) {
        if (bytes[at] != 0) {
            fail_usage("a setting of a newer minit2i.h is set; use the library of that header");
        }
    }
    T result = defaults;
    std::memcpy(static_cast<void *>(&result), bytes, std::min(size, sizeof(T)));
    return result;
}

inline std::string_view view_of(const minit2i_text &text, const char *name) {
    const char &first = require(text.data, name);
    return text.size_bytes == MINIT2I_NUL_TERMINATED ? std::string_view(&first)
                                                     : std::string_view(&first, text.size_bytes);
}

// unit: what is counted, for the line of a run that was cancelled.
inline Progress progress_of(minit2i_progress call, void *data, const char *unit) {
    return [call, data, unit](std::uint64_t done, std::uint64_t total) {
        if (call != nullptr && call(data, done, total) != 0) {
            throw Failure(MINIT2I_ERROR_CANCELLED, std::string("cancelled by the caller after ") +
                                                       unit + " " + std::to_string(done) + " of " +
                                                       std::to_string(total));
        }
    };
}

inline Warn warn_of(minit2i_warning call, void *data) {
    return [call, data](const std::string &text) {
        if (call != nullptr) {
            call(data, text.c_str());
        }
    };
}

} // namespace minit2i
