#include "engine/packed_graphs.hpp"

#include "common/atomic_write.hpp"
#include "common/failure.hpp"
#include "common/files.hpp"
#include "common/json.hpp"
#include "common/python_json.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <thread>

namespace minit2i {
namespace {

namespace fs = std::filesystem;

constexpr char kFolder[] = "packed";
constexpr char kModelFile[] = "model.onnx";
constexpr char kDataFile[] = "model.onnx.data";
// Written last; holds the bytes of both.
constexpr char kRecordFile[] = "record.json";
constexpr std::chrono::milliseconds kRetry(500);
// In fp16, which takes most: weights widened, and those packed, which pads them a little, and the
// graph.
constexpr double kBytesOfSource = 4.2;
constexpr double kGigabyte = 1e9;

// The only process that writes an entry, by Python's lock file beside it.
class OutputLock {
public:
    OutputLock(const fs::path &output, std::chrono::seconds wait)
        : path_(output.parent_path() / ("." + output.filename().string() + ".lock")) {
        const auto deadline = std::chrono::steady_clock::now() + wait;
        while (!try_lock()) {
            if (std::chrono::steady_clock::now() >= deadline) {
                fail_runtime(output.string() + ": another process is writing it; wait for it to "
                                               "end, or name another cache folder");
            }
            std::this_thread::sleep_for(kRetry);
        }
    }
    OutputLock(const OutputLock &) = delete;
    OutputLock &operator=(const OutputLock &) = delete;
    ~OutputLock() {
        // Removed before it is released: whoever waits on the open file then sees a stale name.
        ::unlink(path_.c_str());
        ::close(file_);
    }

private:
    bool try_lock() {
        file_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (file_ < 0) {
            fail_write(path_.parent_path(), errno);
        }
        struct stat named{};
        struct stat opened{};
        const int reason = ::flock(file_, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
        if (reason == 0 && ::stat(path_.c_str(), &named) == 0 && ::fstat(file_, &opened) == 0 &&
            named.st_ino == opened.st_ino) {
            return true;
        }
        ::close(file_);
        if (reason != 0 && reason != EWOULDBLOCK && reason != EINTR) {
            // A file system without locks.
            fail_write(path_.parent_path(), reason);
        }
        return false;
    }

    fs::path path_;
    int file_ = -1;
};

// Why an entry is not complete, or nothing; contents are not read, as with the bundle's own files.
std::string corrupt(const fs::path &place) {
    try {
        std::string text;
        if (!read_file(place / kRecordFile, text)) {
            return std::string("it is not complete (no ") + kRecordFile + ")";
        }
        const Json record = parse_json(text);
        for (const char *name : {kModelFile, kDataFile}) {
            const auto actual = fs::file_size(place / name);
            const auto expected = expect_integer(member(record, name), name);
            if (actual != static_cast<std::uintmax_t>(expected)) {
                return std::string(name) + " has " + std::to_string(actual) + " bytes, but " +
                       kRecordFile + " says " + std::to_string(expected);
            }
        }
        return "";
    } catch (const std::exception &error) {
        return std::string("it is not complete (") + error.what() + ")";
    }
}

// The session of a complete entry; where there is none, reason says why not, or nothing where there
// is no entry.
std::optional<Ort::Session> open_complete(const OpenSession &open, const fs::path &place,
                                          const Ort::SessionOptions &options, std::string &reason) {
    std::error_code ignored;
    reason.clear();
    if (!fs::exists(place, ignored)) {
        return std::nullopt;
    }
    reason = corrupt(place);
    if (reason.empty()) {
        Ort::SessionOptions ready = options.Clone();
        ready.SetGraphOptimizationLevel(ORT_DISABLE_ALL);
        try {
            return open(place / kModelFile, ready);
        } catch (const Ort::Exception &error) {
            reason = error.what();
            reason = reason.substr(0, reason.find('\n'));
        }
    }
    return std::nullopt;
}

void check_room(const fs::path &graph, const fs::path &place) {
    double bytes = 0.0;
    for (const auto &entry : fs::directory_iterator(graph.parent_path())) {
        if (entry.path().filename().string().rfind(graph.stem().string() + ".", 0) == 0) {
            bytes += static_cast<double>(entry.file_size());
        }
    }
    const double needed = kBytesOfSource * bytes;
    const auto free = static_cast<double>(fs::space(place.parent_path()).available);
    if (needed > free) {
        fail_usage(place.string() + ": needs " + fixed_float(needed / kGigabyte, 1) + " GB, but " +
                   fixed_float(free / kGigabyte, 1) +
                   " GB are free there; free some, name another cache folder, or none");
    }
}

// What killed processes left; the caller holds the lock.
void remove_leftovers(const fs::path &place) {
    const std::string start = "." + place.filename().string() + ".partial-";
    for (const auto &entry : fs::directory_iterator(place.parent_path())) {
        if (entry.path().filename().string().rfind(start, 0) == 0) {
            std::error_code ignored;
            fs::remove_all(entry.path(), ignored);
        }
    }
}

// Before the record says that it is there.
std::uintmax_t synced_size(const fs::path &file) {
    // A graph without a large weight has no second file.
    const int opened = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (opened < 0 || ::fsync(opened) != 0) {
        const int reason = errno;
        ::close(opened);
        fail_write(file, reason);
    }
    ::close(opened);
    return fs::file_size(file);
}

// Removes a folder that was not moved into place.
struct Partial {
    fs::path path;
    ~Partial() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
    }
};

// Where a disk has no locks between machines, another may write the same entry meanwhile. A
// complete one in its place is as good.
void move_into_place(const fs::path &partial, const fs::path &place, const fs::path &aside) {
    try {
        if (fs::exists(place)) {
            fs::rename(place, aside);
        }
        fs::rename(partial, place);
    } catch (const fs::filesystem_error &) {
        if (!corrupt(place).empty()) {
            throw;
        }
    }
}

Ort::Session written(const OpenSession &open, const fs::path &graph, const fs::path &place,
                     const Ort::SessionOptions &options) {
    remove_leftovers(place);
    check_room(graph, place);
    const Partial partial{place.parent_path() / partial_name(place)};
    // What was there before, for the moment of the exchange.
    const Partial aside{place.parent_path() / partial_name(place)};
    fs::create_directory(partial.path);
    Ort::SessionOptions saving = options.Clone();
    saving.SetOptimizedModelFilePath((partial.path / kModelFile).c_str());
    saving.AddConfigEntry("session.optimized_model_external_initializers_file_name", kDataFile);
    // Smaller ones are read with the graph.
    saving.AddConfigEntry("session.optimized_model_external_initializers_min_size_in_bytes",
                          "1024");
    saving.AddConfigEntry("session.save_external_prepacked_constant_initializers", "1");
    Ort::Session session = open(graph, saving);
    Json record = Json::object();
    for (const char *name : {kModelFile, kDataFile}) {
        record[name] = synced_size(partial.path / name);
    }
    write_file(partial.path / kRecordFile, record.dump() + "\n");
    move_into_place(partial.path, place, aside.path);
    return session;
}

} // namespace

Ort::Session open_packed(const OpenSession &open, const fs::path &graph, const fs::path &folder,
                         const Ort::SessionOptions &options, const Warn &warn,
                         std::chrono::seconds wait) {
    const fs::path place = folder / kFolder;
    std::string reason;
    if (std::optional<Ort::Session> session = open_complete(open, place, options, reason)) {
        return std::move(*session);
    }
    const OutputLock lock(place, wait);
    // Another process may have written it meanwhile.
    if (std::optional<Ort::Session> session = open_complete(open, place, options, reason)) {
        return std::move(*session);
    }
    try {
        Ort::Session session = written(open, graph, place, options);
        if (!reason.empty()) {
            warn(place.string() + ": " + reason + "; it is made anew");
        }
        return session;
    } catch (const fs::filesystem_error &error) {
        fail_write(place, error.code().value());
    } catch (const Ort::Exception &) {
        if (disk_is_full(place.parent_path())) {
            fail_write(place, ENOSPC);
        }
        throw;
    }
}

} // namespace minit2i
