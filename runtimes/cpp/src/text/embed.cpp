#include "text/embed.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
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

// What encoding gives: position in the list, and its text in a batch.
using Take = std::function<void(std::size_t position, const Embedded &batch, std::size_t text)>;

// Encodes each distinct text once, in batches of similar length, as Python's SequenceEncoder: calls
// with equal texts give the same bits in both. done gets how many positions are complete.
void encode_distinct(Engine &engine, const Tokenizer &tokenizer,
                     const std::vector<Encoded> &encoded, std::size_t batch_size,
                     RunControl &control, const Take &take,
                     const std::function<void(std::size_t done)> &done) {
    std::map<std::vector<std::int64_t>, std::vector<std::size_t>> positions_of;
    std::vector<const Encoded *> distinct;
    for (std::size_t position = 0; position < encoded.size(); ++position) {
        std::vector<std::size_t> &positions = positions_of[encoded[position].ids];
        if (positions.empty()) {
            distinct.push_back(&encoded[position]);
        }
        positions.push_back(position);
    }
    std::stable_sort(distinct.begin(), distinct.end(), [](const Encoded *a, const Encoded *b) {
        return a->ids.size() < b->ids.size();
    });
    std::size_t num_done = 0;
    for (std::size_t start = 0; start < distinct.size();) {
        const std::size_t count = std::min(batch_size, distinct.size() - start);
        const auto first = distinct.begin() + static_cast<std::ptrdiff_t>(start);
        const std::vector<const Encoded *> texts(first, first + static_cast<std::ptrdiff_t>(count));
        const Embedded batch = encode_batch(engine, tokenizer, texts, control);
        for (std::size_t text = 0; text < count; ++text) {
            for (const std::size_t position : positions_of[texts[text]->ids]) {
                take(position, batch, text);
                ++num_done;
            }
        }
        start += count;
        done(num_done);
    }
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
    Embedded result;
    for (const Encoded &item : encoded) {
        result.num_tokens = std::max(result.num_tokens, item.ids.size());
    }
    result.mask.assign(texts.size() * result.num_tokens, 0);
    encode_distinct(
        engine, tokenizer, encoded, batch_size, control,
        [&result](std::size_t position, const Embedded &batch, std::size_t text) {
            result.width = batch.width;
            result.values.resize(result.mask.size() * result.width);
            const std::size_t target = position * result.num_tokens;
            copy_text(batch, text, result.values.data() + target * result.width,
                      result.mask.data() + target);
        },
        [&](std::size_t done) { progress(done, texts.size()); });
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
    const auto length = static_cast<std::size_t>(tokenizer.prompt_length());
    Tensor context{{},
                   {static_cast<std::int64_t>(num_texts), static_cast<std::int64_t>(length), 0}};
    std::vector<std::int64_t> mask(num_texts * length);
    encode_distinct(
        engine, tokenizer, encoded, kEmbedBatchSize, control,
        [&](std::size_t position, const Embedded &batch, std::size_t text) {
            context.shape[2] = static_cast<std::int64_t>(batch.width);
            context.values.resize(mask.size() * batch.width);
            copy_text(batch, text, context.values.data() + position * length * batch.width,
                      mask.data() + position * length);
        },
        [](std::size_t) {});
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
