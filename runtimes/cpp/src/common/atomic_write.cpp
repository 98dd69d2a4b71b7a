#include "common/atomic_write.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>

namespace minit2i {
namespace {

constexpr std::array kDiskErrors{ENOSPC, EDQUOT, EIO, EFBIG, EROFS};

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

} // namespace

std::string partial_name(const std::filesystem::path &path) {
    static std::atomic<unsigned> counter{0};
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    return "." + path.filename().string() + ".partial-" + std::to_string(::getpid()) + "-" +
           host.data() + "-" + std::to_string(counter++);
}

int write_atomically(const std::filesystem::path &path, std::string_view bytes) {
    const std::filesystem::path partial = path.parent_path() / partial_name(path);
    const int file = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) {
        return errno;
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
    }
    return reason;
}

bool is_disk_error(int reason) {
    return std::find(kDiskErrors.begin(), kDiskErrors.end(), reason) != kDiskErrors.end();
}

} // namespace minit2i
