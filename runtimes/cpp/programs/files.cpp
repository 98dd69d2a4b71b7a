#include "files.hpp"

#include "arguments.hpp"
#include "common/atomic_write.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>

namespace programs {

namespace {

std::string read_standard_input() {
    std::ostringstream bytes;
    if (std::cin.peek() != std::istream::traits_type::eof()) {
        bytes << std::cin.rdbuf();
    }
    if (std::cin.bad() || bytes.fail()) {
        throw UsageError("standard input cannot be read");
    }
    return bytes.str();
}

[[noreturn]] void fail_write(const std::string &path, int reason) {
    const std::string line = path + ": cannot be written: " + std::strerror(reason);
    if (minit2i::is_disk_error(reason)) {
        throw std::runtime_error(line);
    }
    throw UsageError(line + "; choose a folder you can write");
}

} // namespace

std::string read_file(const std::string &path) {
    if (path == "-") {
        return read_standard_input();
    }
    std::ifstream stream(path, std::ios::binary);
    std::ostringstream bytes;
    // An empty file adds nothing, which the stream would call a failure.
    if (stream && stream.peek() != std::ifstream::traits_type::eof()) {
        bytes << stream.rdbuf();
    }
    if (!stream.is_open() || stream.bad() || bytes.fail()) {
        throw UsageError(path + ": cannot be read; name a file");
    }
    return bytes.str();
}

std::vector<std::string> read_lines(const std::string &path) {
    std::vector<std::string> lines;
    const std::string text = read_file(path);
    for (std::size_t start = 0; start < text.size();) {
        const std::size_t end = std::min(text.find('\n', start), text.size());
        lines.push_back(text.substr(start, end - start));
        start = end + 1;
    }
    return lines;
}

void check_writable(const std::string &path) {
    std::filesystem::path folder = std::filesystem::path(path).parent_path();
    folder = folder.empty() ? "." : folder;
    // With a name inside, so that a file in the folder's place is an error.
    if (::access((folder / ".").c_str(), W_OK | X_OK) != 0) {
        fail_write(path, errno);
    }
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
        fail_write(path, EISDIR);
    }
}

void write_file(const std::string &path, const std::string &bytes) {
    const int reason = minit2i::write_atomically(path, bytes);
    if (reason != 0) {
        fail_write(path, reason);
    }
}

void check_suffix(const std::string &path, const std::string &suffix) {
    if (std::filesystem::path(path).extension() != suffix) {
        throw UsageError(path + ": expected a " + suffix + " file");
    }
}

} // namespace programs
