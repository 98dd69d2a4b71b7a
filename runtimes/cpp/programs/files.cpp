#include "files.hpp"

#include "arguments.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace programs {

std::string read_file(const std::string &path) {
    std::ifstream stream(path, std::ios::binary);
    std::ostringstream bytes;
    // An empty file adds nothing, which the stream would call a failure.
    if (stream && stream.peek() != std::ifstream::traits_type::eof()) {
        bytes << stream.rdbuf();
    }
    if (!stream.is_open() || stream.bad() || bytes.fail()) {
        throw WrongUse(path + ": cannot be read; name a file");
    }
    return bytes.str();
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
        throw WrongUse(path + ": cannot be written: " + reason + "; choose a folder you can write");
    }
}

void check_suffix(const std::string &path, const std::string &suffix) {
    if (std::filesystem::path(path).extension() != suffix) {
        throw WrongUse(path + ": only " + suffix + " files are written here; name one");
    }
}

} // namespace programs
