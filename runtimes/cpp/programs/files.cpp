#include "files.hpp"

#include "arguments.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string_view>

namespace programs {

namespace {

// What a full or broken disk gives; anything else is about the place.
constexpr std::array kDiskErrors{ENOSPC, EDQUOT, EIO, EFBIG, EROFS};

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

// Of this call alone, also where containers on a shared disk have the same pid.
std::filesystem::path partial_name(const std::filesystem::path &path) {
    static std::atomic<unsigned> counter{0};
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    return path.parent_path() /
           ("." + path.filename().string() + ".partial-" + std::to_string(::getpid()) + "-" +
            host.data() + "-" + std::to_string(counter++));
}

// Also to the disk, or a power cut may leave the new name with an empty file.
bool write_all(int file, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t count = ::write(file, bytes.data(), bytes.size());
        if (count < 0 && errno != EINTR) {
            return false;
        }
        bytes.remove_prefix(count < 0 ? 0 : static_cast<std::size_t>(count));
    }
    return ::fsync(file) == 0;
}

[[noreturn]] void fail_write(const std::string &path, int reason) {
    const std::string line = path + ": cannot be written: " + std::strerror(reason);
    if (std::find(kDiskErrors.begin(), kDiskErrors.end(), reason) != kDiskErrors.end()) {
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
    const std::filesystem::path partial = partial_name(path);
    const int file = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) {
        fail_write(path, errno);
    }
    int reason = write_all(file, bytes) ? 0 : errno;
    if (::close(file) != 0 && reason == 0) {
        reason = errno;
    }
    if (reason == 0 && ::rename(partial.c_str(), path.c_str()) != 0) {
        reason = errno;
    }
    if (reason != 0) {
        ::unlink(partial.c_str());
        fail_write(path, reason);
    }
}

void check_suffix(const std::string &path, const std::string &suffix) {
    if (std::filesystem::path(path).extension() != suffix) {
        throw UsageError(path + ": expected a " + suffix + " file");
    }
}

} // namespace programs
