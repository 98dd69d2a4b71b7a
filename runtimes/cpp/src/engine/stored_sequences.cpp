#include "engine/stored_sequences.hpp"

#include "common/failure.hpp"
#include "common/files.hpp"
#include "common/sha256.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace minit2i {
namespace {

namespace fs = std::filesystem;

// A prompt and a negative one.
constexpr std::size_t kMaxTexts = 2;
constexpr std::size_t kMaxEntries = 256;
constexpr char kSuffix[] = ".f32";
constexpr std::size_t kNameDigits = 40;
constexpr std::size_t kDigestBytes = 64;

fs::path file_name(const std::vector<std::int64_t> &ids, const std::vector<std::int64_t> &mask,
                   std::size_t n) {
    const std::string shape = std::to_string(n) + " " + std::to_string(ids.size() / n) + "\n";
    Sha256 call;
    call.update(shape.data(), shape.size());
    for (const auto *array : {&ids, &mask}) {
        call.update(array->data(), array->size() * sizeof(std::int64_t));
    }
    return call.finish().substr(0, kNameDigits) + kSuffix;
}

} // namespace

StoredSequences::StoredSequences(fs::path folder, std::size_t width, Warn warn)
    : folder_(std::move(folder)), width_(width), warn_(std::move(warn)) {}

std::optional<std::vector<float>> StoredSequences::read(const std::vector<std::int64_t> &ids,
                                                        const std::vector<std::int64_t> &mask,
                                                        std::size_t n) {
    const fs::path place = folder_ / file_name(ids, mask, n);
    std::error_code ignored;
    std::string data;
    if (!fs::exists(place, ignored) || !read_file(place, data)) {
        return std::nullopt;
    }
    std::vector<float> values(ids.size() * width_);
    const std::size_t num_bytes = values.size() * sizeof(float);
    if (data.size() != kDigestBytes + num_bytes ||
        sha256_hex(std::string_view(data).substr(kDigestBytes)) != data.substr(0, kDigestBytes)) {
        fs::remove(place, ignored);
        warn_(place.string() + ": is corrupt; the prompt is encoded anew");
        return std::nullopt;
    }
    std::memcpy(values.data(), data.data() + kDigestBytes, num_bytes);
    fs::last_write_time(place, fs::file_time_type::clock::now(), ignored);
    return values;
}

void StoredSequences::write(const std::vector<std::int64_t> &ids,
                            const std::vector<std::int64_t> &mask, std::size_t n,
                            const std::vector<float> &values) {
    if (n > kMaxTexts) {
        return;
    }
    const std::string_view bytes(reinterpret_cast<const char *>(values.data()),
                                 values.size() * sizeof(float));
    const std::lock_guard<std::mutex> lock(writing_);
    std::error_code error;
    fs::create_directories(folder_, error);
    try {
        if (error) {
            fail_usage(folder_.string() + ": cannot be made (" + error.message() + ")");
        }
        write_file(folder_ / file_name(ids, mask, n), sha256_hex(bytes) + std::string(bytes));
    } catch (const Failure &failure) {
        warn_(std::string(failure.what()) + "; the next start encodes the prompt again");
        return;
    }
    remove_oldest();
}

// The ones read least recently.
void StoredSequences::remove_oldest() const {
    std::vector<std::pair<fs::file_time_type, fs::path>> files;
    std::error_code ignored;
    for (const auto &entry : fs::directory_iterator(folder_, ignored)) {
        const std::string name = entry.path().filename().string();
        if (name.front() != '.' && entry.path().extension() == kSuffix) {
            files.emplace_back(entry.last_write_time(ignored), entry.path());
        }
    }
    if (files.size() <= kMaxEntries) {
        return;
    }
    std::sort(files.begin(), files.end());
    for (std::size_t index = 0; index < files.size() - kMaxEntries; ++index) {
        fs::remove(files[index].second, ignored);
    }
}

} // namespace minit2i
