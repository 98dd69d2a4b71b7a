// The edge between exceptions inside and status codes outside.
#pragma once

#include "failure.hpp"

#include <cstring>
#include <exception>
#include <new>
#include <string>

namespace minit2i {

// Keeps the text for minit2i_last_error; a text that cannot be stored leaves a fixed one.
minit2i_status keep_error(minit2i_status status, const char *text) noexcept;

template <typename Work> minit2i_status guarded(Work work) noexcept {
    try {
        keep_error(MINIT2I_OK, "");
        work();
        return MINIT2I_OK;
    } catch (const Failure &error) {
        return keep_error(error.status, error.what());
    } catch (const std::bad_alloc &) {
        return keep_error(MINIT2I_ERROR_MEMORY, "out of memory; free some, or use a smaller batch");
    } catch (const std::exception &error) {
        return keep_error(MINIT2I_ERROR_INTERNAL, error.what());
    } catch (...) {
        return keep_error(MINIT2I_ERROR_INTERNAL, "an unknown exception was thrown");
    }
}

template <typename T> T &needed(T *pointer, const char *name) {
    if (pointer == nullptr) {
        fail_usage(std::string(name) + " is NULL, but a pointer is needed");
    }
    return *pointer;
}

// An output that still owns something would leak.
template <typename T> void expect_empty(T **output, const char *name) {
    if (needed(output, name) != nullptr) {
        fail_usage(std::string("*") + name + " is not NULL; free it and set it to NULL first");
    }
}

// Copies the part of a struct that both the caller and this library know.
template <typename T> T known_part(const T &given) {
    T result{};
    if (given.struct_size < sizeof(std::size_t)) {
        fail_usage("struct_size is " + std::to_string(given.struct_size) +
                   "; fill the struct with its _defaults function first");
    }
    std::memcpy(&result, &given, std::min(given.struct_size, sizeof(T)));
    return result;
}

} // namespace minit2i
