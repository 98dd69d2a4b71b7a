// Texts to embeddings, and on to the tokens that the denoiser takes.
#pragma once

#include "engine/engine.hpp"
#include "text/tokenizer.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace minit2i {

using Warn = std::function<void(const std::string &text)>;

struct Embedded {
    std::size_t num_tokens = 0; // of the longest text
    std::size_t width = 0;
    std::vector<float> values;      // [texts, num_tokens, width], zero at padding
    std::vector<std::int64_t> mask; // [texts, num_tokens]
};

// Tokenises every text and warns of each that is cut.
std::vector<Encoded> tokenise(const Tokenizer &tokenizer, const std::vector<std::string_view> &texts,
                              const Warn &warn);

// One run of the text encoder, padded to the longest text and no further.
Embedded encode_batch(Engine &engine, const Tokenizer &tokenizer,
                      const std::vector<const Encoded *> &batch);

// Any number of texts, in batches of similar length, in the order they came.
Embedded embed(Engine &engine, const Tokenizer &tokenizer,
               const std::vector<std::string_view> &texts, const Warn &warn);

// float32 [texts, width]: means over real tokens, scaled to length 1.
std::vector<float> pooled(const Embedded &embedded);

// What a few-step student is told, and whether there is another branch at all.
struct Branches {
    bool guided = false;
    const std::string_view *negative = nullptr; // null: the unconditional branch
    std::vector<float> conditions;              // float32 [4], or empty
};

// Adapted tokens float32 [1 or 2, prompts, adapted, hidden], the conditional branch first.
Tensor branch_tokens(Engine &engine, const Tokenizer &tokenizer,
                     const std::vector<std::string_view> &prompts, const Branches &branches,
                     const Warn &warn);

} // namespace minit2i
