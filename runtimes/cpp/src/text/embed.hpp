// Texts to embeddings, and on to the tokens that the denoiser takes.
#pragma once

#include "common/callbacks.hpp"
#include "engine/engine.hpp"
#include "text/tokenizer.hpp"

#include <cstdint>
#include <string_view>
#include <vector>

namespace minit2i {

constexpr std::size_t kEmbedBatchSize = 32;

struct Embedded {
    std::size_t num_tokens = 0; // of the longest text
    std::size_t width = 0;
    std::vector<float> values;      // [texts, num_tokens, width], zero at padding
    std::vector<std::int64_t> mask; // [texts, num_tokens]

    std::size_t num_texts() const { return num_tokens == 0 ? 0 : mask.size() / num_tokens; }
};

// Any number of texts, in batches of similar length; results are in the order of the texts.
Embedded embed(Engine &engine, const Tokenizer &tokenizer,
               const std::vector<std::string_view> &texts, std::size_t batch_size,
               RunControl &control, const Progress &progress, const Warn &warn);

// float32 [texts, width]: means over real tokens, scaled to length 1.
std::vector<float> pooled(const Embedded &embedded);

// The branches of guidance, and the conditions of a few-step student.
struct Branches {
    bool guided = false;                        // whether there is an unconditional one
    const std::string_view *negative = nullptr; // takes its place, or null
    std::vector<float> conditions;              // float32 [4], or empty
};

// Adapted tokens float32 [parts or parts + 1, images, adapted, hidden]: the branches of the
// prompts' parts, then the unconditional one. prompts are [images][parts].
Tensor branch_tokens(Engine &engine, const Tokenizer &tokenizer,
                     const std::vector<std::vector<std::string_view>> &prompts,
                     const Branches &branches, RunControl &control, const Warn &warn);

} // namespace minit2i
