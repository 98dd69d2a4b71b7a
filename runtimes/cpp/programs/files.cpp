#include "files.hpp"

#include "arguments.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

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

void write_file(const std::string &path, const std::string &bytes) {
    const std::filesystem::path target(path);
    const std::filesystem::path partial =
        target.parent_path() / ("." + target.filename().string() + ".partial");
    errno = 0;
    std::ofstream stream(partial, std::ios::binary | std::ios::trunc);
    stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    stream.close();
    if (!stream || std::rename(partial.c_str(), target.c_str()) != 0) {
        const std::string reason = std::strerror(errno);
        std::remove(partial.c_str());
        throw UsageError(path + ": cannot be written: " + reason +
                         "; choose a folder you can write");
    }
}

void check_suffix(const std::string &path, const std::string &suffix) {
    if (std::filesystem::path(path).extension() != suffix) {
        throw UsageError(path + ": expected a " + suffix + " file");
    }
}

} // namespace programs
