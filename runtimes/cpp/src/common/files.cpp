#include "common/files.hpp"

#include "common/failure.hpp"
#include "common/sha256.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

namespace minit2i {
namespace {

constexpr std::size_t kChunkBytes = 1 << 20;
constexpr std::uintmax_t kLeastFreeBytes = 1 << 20;
// What a full or broken disk gives; anything else is about the place.
constexpr std::array kDiskErrors{ENOSPC, EDQUOT, EIO, EFBIG, EROFS};

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

std::string partial_name(const std::filesystem::path &path) {
    static std::atomic<unsigned> counter{0};
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    return "." + path.filename().string() + ".partial-" + std::to_string(::getpid()) + "-" +
           host.data() + "-" + std::to_string(counter++);
}

void write_file(const std::filesystem::path &path, std::string_view bytes) {
    const std::filesystem::path partial = path.parent_path() / partial_name(path);
    const int file = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool done = file >= 0 && write_all(file, bytes);
    int reason = done ? 0 : errno;
    if (file >= 0 && ::close(file) != 0 && done) {
        done = false;
        reason = errno;
    }
    if (done && ::rename(partial.c_str(), path.c_str()) != 0) {
        done = false;
        reason = errno;
    }
    if (!done) {
        ::unlink(partial.c_str());
        fail_write(path, reason);
    }
}

void fail_write(const std::filesystem::path &path, int reason) {
    const std::string line = path.string() + ": cannot be written: " + std::strerror(reason);
    if (std::find(kDiskErrors.begin(), kDiskErrors.end(), reason) != kDiskErrors.end()) {
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
