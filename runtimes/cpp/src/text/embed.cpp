#include "text/embed.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace minit2i {
namespace {

constexpr std::size_t kBatchSize = 32;

std::size_t longest_of(const std::vector<const Encoded *> &batch) {
    std::size_t longest = 0;
    for (const Encoded *item : batch) {
        longest = std::max(longest, item->ids.size());
    }
    return longest;
}

// Pads a batch to the model's prompt length; what stands at padding never reaches the network.
void pad(const Embedded &batch, std::size_t rows, std::size_t length, Tensor &context,
         std::vector<std::int64_t> &mask) {
    for (std::size_t row = 0; row < rows; ++row) {
        const std::size_t num_values = batch.num_tokens * batch.width;
        std::copy_n(batch.values.data() + row * num_values, num_values,
                    context.values.data() + row * length * batch.width);
        std::copy_n(batch.mask.data() + row * batch.num_tokens, batch.num_tokens,
                    mask.data() + row * length);
    }
}

} // namespace

std::vector<Encoded> tokenise(const Tokenizer &tokenizer,
                              const std::vector<std::string_view> &texts, const Warn &warn) {
    std::vector<Encoded> result;
    for (std::size_t index = 0; index < texts.size(); ++index) {
        result.push_back(tokenizer.encode(texts[index], index));
        if (result.back().was_cut) {
            warn("prompt " + std::to_string(index) + " was cut to " +
                 std::to_string(tokenizer.prompt_length()) + " tokens: '..." +
                 tokenizer.tail(result.back()) + "'");
        }
    }
    return result;
}

Embedded encode_batch(Engine &engine, const Tokenizer &tokenizer,
                      const std::vector<const Encoded *> &batch) {
    Embedded result;
    result.num_tokens = longest_of(batch);
    std::vector<std::int64_t> ids(batch.size() * result.num_tokens, tokenizer.pad_id());
    result.mask.assign(ids.size(), 0);
    for (std::size_t row = 0; row < batch.size(); ++row) {
        const std::size_t start = row * result.num_tokens;
        const std::vector<std::int64_t> &own = batch[row]->ids;
        std::copy(own.begin(), own.end(), ids.data() + start);
        std::fill_n(result.mask.data() + start, own.size(), 1);
    }
    Tensor values = engine.encode(ids, result.mask, batch.size());
    result.width = static_cast<std::size_t>(values.shape[2]);
    result.values = std::move(values.values);
    for (std::size_t token = 0; token < result.mask.size(); ++token) {
        if (result.mask[token] == 0) {
            std::fill_n(result.values.data() + token * result.width, result.width, 0.0F);
        }
    }
    return result;
}

Embedded embed(Engine &engine, const Tokenizer &tokenizer,
               const std::vector<std::string_view> &texts, const Warn &warn) {
    const std::vector<Encoded> encoded = tokenise(tokenizer, texts, warn);
    std::vector<std::size_t> order(encoded.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return encoded[a].ids.size() < encoded[b].ids.size();
    });
    Embedded result;
    result.num_tokens = encoded[order.back()].ids.size();
    result.mask.assign(texts.size() * result.num_tokens, 0);
    for (std::size_t start = 0; start < order.size(); start += kBatchSize) {
        const std::size_t rows = std::min(kBatchSize, order.size() - start);
        std::vector<const Encoded *> batch;
        for (std::size_t row = 0; row < rows; ++row) {
            batch.push_back(&encoded[order[start + row]]);
        }
        const Embedded part = encode_batch(engine, tokenizer, batch);
        result.width = part.width;
        result.values.resize(texts.size() * result.num_tokens * result.width);
        for (std::size_t row = 0; row < rows; ++row) {
            const std::size_t target = order[start + row] * result.num_tokens;
            std::copy_n(part.values.data() + row * part.num_tokens * part.width,
                        part.num_tokens * part.width, result.values.data() + target * part.width);
            std::copy_n(part.mask.data() + row * part.num_tokens, part.num_tokens,
                        result.mask.data() + target);
        }
    }
    return result;
}

std::vector<float> pooled(const Embedded &embedded) {
    const std::size_t num_texts = embedded.mask.size() / embedded.num_tokens;
    std::vector<float> result(num_texts * embedded.width);
    for (std::size_t text = 0; text < num_texts; ++text) {
        std::vector<double> sum(embedded.width);
        const float *values = embedded.values.data() + text * embedded.num_tokens * embedded.width;
        for (std::size_t i = 0; i < embedded.num_tokens * embedded.width; ++i) {
            sum[i % embedded.width] += static_cast<double>(values[i]);
        }
        // The mean and the sum point the same way, and only the direction is kept.
        const double length =
            std::sqrt(std::inner_product(sum.begin(), sum.end(), sum.begin(), 0.0));
        for (std::size_t i = 0; i < embedded.width; ++i) {
            result[text * embedded.width + i] = static_cast<float>(sum[i] / length);
        }
    }
    return result;
}

Tensor branch_tokens(Engine &engine, const Tokenizer &tokenizer,
                     const std::vector<std::string_view> &prompts, const Branches &branches,
                     const Warn &warn) {
    std::vector<std::string_view> texts = prompts;
    if (branches.negative != nullptr) {
        texts.push_back(*branches.negative);
    }
    const std::vector<Encoded> encoded = tokenise(tokenizer, texts, warn);
    std::vector<const Encoded *> batch;
    for (const Encoded &item : encoded) {
        batch.push_back(&item);
    }
    const Embedded embedded = encode_batch(engine, tokenizer, batch);
    // Without a negative prompt the other branch is a row of zeros with a mask of zeros.
    const std::size_t rows = prompts.size() + (branches.guided ? 1 : 0);
    const auto length = static_cast<std::size_t>(tokenizer.prompt_length());
    Tensor context{std::vector<float>(rows * length * embedded.width),
                   {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(length),
                    static_cast<std::int64_t>(embedded.width)}};
    std::vector<std::int64_t> mask(rows * length);
    pad(embedded, texts.size(), length, context, mask);
    std::vector<float> conditions;
    for (std::size_t row = 0; row < rows; ++row) {
        conditions.insert(conditions.end(), branches.conditions.begin(), branches.conditions.end());
    }
    Tensor adapted = engine.adapt(context, mask, conditions);
    const std::size_t num_values = adapted.values.size() / rows;
    if (branches.guided) {
        const std::vector<float> other(adapted.values.end() - static_cast<std::ptrdiff_t>(num_values),
                                       adapted.values.end());
        for (std::size_t row = 1; row < prompts.size(); ++row) {
            adapted.values.insert(adapted.values.end(), other.begin(), other.end());
        }
    }
    return {std::move(adapted.values),
            {branches.guided ? 2 : 1, static_cast<std::int64_t>(prompts.size()), adapted.shape[1],
             adapted.shape[2]}};
}

} // namespace minit2i
