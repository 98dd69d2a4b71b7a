#include "text/embed.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace minit2i {
namespace {

// Tokenizes every text and warns of each that is cut.
std::vector<Encoded> tokenize(const Tokenizer &tokenizer,
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

std::size_t longest_of(const std::vector<const Encoded *> &batch) {
    std::size_t longest = 0;
    for (const Encoded *item : batch) {
        longest = std::max(longest, item->ids.size());
    }
    return longest;
}

// One run of the text encoder, padded to the longest text and no further.
Embedded encode_batch(Engine &engine, const Tokenizer &tokenizer,
                      const std::vector<const Encoded *> &batch, RunControl &control) {
    Embedded result;
    result.num_tokens = longest_of(batch);
    std::vector<std::int64_t> ids(batch.size() * result.num_tokens, tokenizer.pad_id());
    result.mask.assign(ids.size(), 0);
    for (std::size_t text = 0; text < batch.size(); ++text) {
        const std::size_t start = text * result.num_tokens;
        const std::vector<std::int64_t> &real = batch[text]->ids;
        std::copy(real.begin(), real.end(), ids.data() + start);
        std::fill_n(result.mask.data() + start, real.size(), 1);
    }
    Tensor values = engine.encode(ids, result.mask, batch.size(), control);
    result.width = static_cast<std::size_t>(values.shape[2]);
    result.values = std::move(values.values);
    for (std::size_t token = 0; token < result.mask.size(); ++token) {
        if (result.mask[token] == 0) {
            std::fill_n(result.values.data() + token * result.width, result.width, 0.0F);
        }
    }
    return result;
}

// Copies one text of a batch to a place with as many tokens or more.
void copy_text(const Embedded &batch, std::size_t text, float *values, std::int64_t *mask) {
    const std::size_t num_values = batch.num_tokens * batch.width;
    std::copy_n(batch.values.data() + text * num_values, num_values, values);
    std::copy_n(batch.mask.data() + text * batch.num_tokens, batch.num_tokens, mask);
}

// part by part, each with all images, as the branches are.
std::vector<std::string_view>
part_major(const std::vector<std::vector<std::string_view>> &prompts) {
    std::vector<std::string_view> texts;
    for (std::size_t part = 0; part < prompts[0].size(); ++part) {
        for (const std::vector<std::string_view> &image : prompts) {
            texts.push_back(image[part]);
        }
    }
    return texts;
}

// Repeats the last text's tokens so that the unconditional branch has one text for each image.
void repeat_last(Tensor &adapted, std::size_t num_texts, std::size_t num_images) {
    const auto num_values = static_cast<std::ptrdiff_t>(adapted.values.size() / num_texts);
    const std::vector<float> last(adapted.values.end() - num_values, adapted.values.end());
    for (std::size_t image = 1; image < num_images; ++image) {
        adapted.values.insert(adapted.values.end(), last.begin(), last.end());
    }
}

} // namespace

Embedded embed(Engine &engine, const Tokenizer &tokenizer,
               const std::vector<std::string_view> &texts, std::size_t batch_size,
               RunControl &control, const Progress &progress, const Warn &warn) {
    const std::vector<Encoded> encoded = tokenize(tokenizer, texts, warn);
    std::vector<std::size_t> order(encoded.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return encoded[a].ids.size() < encoded[b].ids.size();
    });
    Embedded result;
    result.num_tokens = encoded[order.back()].ids.size();
    result.mask.assign(texts.size() * result.num_tokens, 0);
    for (std::size_t start = 0; start < order.size();) {
        const std::size_t count = std::min(batch_size, order.size() - start);
        std::vector<const Encoded *> batch;
        for (std::size_t text = 0; text < count; ++text) {
            batch.push_back(&encoded[order[start + text]]);
        }
        const Embedded part = encode_batch(engine, tokenizer, batch, control);
        result.width = part.width;
        result.values.resize(texts.size() * result.num_tokens * result.width);
        for (std::size_t text = 0; text < count; ++text) {
            const std::size_t target = order[start + text] * result.num_tokens;
            copy_text(part, text, result.values.data() + target * result.width,
                      result.mask.data() + target);
        }
        start += count;
        progress(start, texts.size());
    }
    return result;
}

std::vector<float> pooled(const Embedded &embedded) {
    const std::size_t num_texts = embedded.num_texts();
    std::vector<float> result(num_texts * embedded.width);
    for (std::size_t text = 0; text < num_texts; ++text) {
        std::vector<double> sum(embedded.width);
        const float *values = embedded.values.data() + text * embedded.num_tokens * embedded.width;
        for (std::size_t i = 0; i < embedded.num_tokens * embedded.width; ++i) {
            sum[i % embedded.width] += static_cast<double>(values[i]);
        }
        // The mean and the sum point the same way, and only the direction stays.
        const double length =
            std::sqrt(std::inner_product(sum.begin(), sum.end(), sum.begin(), 0.0));
        for (std::size_t i = 0; i < embedded.width; ++i) {
            result[text * embedded.width + i] = static_cast<float>(sum[i] / length);
        }
    }
    return result;
}

Tensor branch_tokens(Engine &engine, const Tokenizer &tokenizer,
                     const std::vector<std::vector<std::string_view>> &prompts,
                     const Branches &branches, RunControl &control, const Warn &warn) {
    std::vector<std::string_view> texts = part_major(prompts);
    const std::size_t num_parts = prompts[0].size();
    // Without a negative prompt the unconditional branch is zeros under a mask of zeros.
    const std::size_t num_texts = texts.size() + (branches.guided ? 1 : 0);
    if (branches.negative != nullptr) {
        texts.push_back(*branches.negative);
    }
    const std::vector<Encoded> encoded = tokenize(tokenizer, texts, warn);
    std::vector<const Encoded *> batch;
    for (const Encoded &item : encoded) {
        batch.push_back(&item);
    }
    const Embedded embedded = encode_batch(engine, tokenizer, batch, control);
    const auto length = static_cast<std::size_t>(tokenizer.prompt_length());
    Tensor context{std::vector<float>(num_texts * length * embedded.width),
                   {static_cast<std::int64_t>(num_texts), static_cast<std::int64_t>(length),
                    static_cast<std::int64_t>(embedded.width)}};
    std::vector<std::int64_t> mask(num_texts * length);
    for (std::size_t text = 0; text < texts.size(); ++text) {
        copy_text(embedded, text, context.values.data() + text * length * embedded.width,
                  mask.data() + text * length);
    }
    std::vector<float> conditions;
    for (std::size_t text = 0; text < num_texts; ++text) {
        conditions.insert(conditions.end(), branches.conditions.begin(), branches.conditions.end());
    }
    Tensor adapted = engine.adapt(context, mask, conditions, control);
    if (branches.guided) {
        repeat_last(adapted, num_texts, prompts.size());
    }
    return {std::move(adapted.values),
            {static_cast<std::int64_t>(num_parts + (branches.guided ? 1 : 0)),
             static_cast<std::int64_t>(prompts.size()), adapted.shape[1], adapted.shape[2]}};
}

} // namespace minit2i
