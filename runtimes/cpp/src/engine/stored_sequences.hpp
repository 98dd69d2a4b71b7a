// Encoded prompts in a cache: one that was encoded before needs no text encoder. As
// runtimes/onnxruntime/stored_sequences.py, which says what a file holds; both share the files.
#pragma once

#include "common/callbacks.hpp"

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <vector>

namespace minit2i {

class StoredSequences {
public:
    // folder: for this encoder, library, processor and number of threads; made when needed.
    // width: of a token's values. warn gets a line for a corrupt file, and for one that cannot be
    // written.
    StoredSequences(std::filesystem::path folder, std::size_t width, Warn warn);

    // ids and mask int64 [n, tokens] -> float32 [n, tokens, width] of the same call, if it is
    // there.
    std::optional<std::vector<float>> read(const std::vector<std::int64_t> &ids,
                                           const std::vector<std::int64_t> &mask, std::size_t n);
    // Keeps what a call gave, if it had few texts.
    void write(const std::vector<std::int64_t> &ids, const std::vector<std::int64_t> &mask,
               std::size_t n, const std::vector<float> &values);

private:
    void remove_oldest() const;

    std::filesystem::path folder_;
    std::size_t width_;
    Warn warn_;
    // One thread at a time removes the oldest.
    std::mutex writing_;
};

} // namespace minit2i
