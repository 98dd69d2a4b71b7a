#include "common/files.hpp"

#include "common/atomic_write.hpp"
#include "common/failure.hpp"
#include "common/sha256.hpp"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

namespace minit2i {
namespace {

constexpr std::size_t kChunkBytes = 1 << 20;
constexpr std::uintmax_t kLeastFreeBytes = 1 << 20;

} // namespace

bool read_file(const std::filesystem::path &path, std::string &bytes) {
    std::ifstream stream(path, std::ios::binary);
    bytes.clear();
    std::vector<char> chunk(kChunkBytes);
    while (stream) {
        stream.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
        bytes.append(chunk.data(), static_cast<std::size_t>(stream.gcount()));
    }
    return stream.eof() && !stream.bad();
}

bool hash_file(const std::filesystem::path &path, std::string &digest) {
    std::ifstream stream(path, std::ios::binary);
    Sha256 hash;
    std::vector<char> chunk(kChunkBytes);
    while (stream) {
        stream.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
        hash.update(chunk.data(), static_cast<std::size_t>(stream.gcount()));
    }
    digest = hash.finish();
    return stream.eof() && !stream.bad();
}

void write_file(const std::filesystem::path &path, std::string_view bytes) {
    const int reason = write_atomically(path, bytes);
    if (reason != 0) {
        fail_write(path, reason);
    }
}

void fail_write(const std::filesystem::path &path, int reason) {
    const std::string line = path.string() + ": cannot be written: " + std::strerror(reason);
    if (is_disk_error(reason)) {
        fail_runtime(line);
    }
    fail_usage(line + "; choose a folder you can write");
}

bool disk_is_full(const std::filesystem::path &folder) {
    std::error_code error;
    const std::filesystem::space_info space = std::filesystem::space(folder, error);
    return !error && space.available < kLeastFreeBytes;
}

} // namespace minit2i
