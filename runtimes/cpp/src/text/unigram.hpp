// SentencePiece's unigram model: the pieces whose scores add up to the most.
#pragma once

#include "common/json.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace minit2i {

class Unigram {
public:
    // The value of "model" in a tokenizer.json; throws JsonError.
    explicit Unigram(const Json &value);
    // A copy's keys would look into the original.
    Unigram(const Unigram &) = delete;
    Unigram &operator=(const Unigram &) = delete;
    Unigram(Unigram &&) = default;
    Unigram &operator=(Unigram &&) = default;

    // Appends the ids of a text without NUL.
    void encode(std::string_view text, std::vector<std::int64_t> &ids) const;
    // The id of a piece, or -1.
    std::int64_t find(std::string_view piece) const;
    // The text of a piece; empty where the id is none of the model's.
    std::string_view piece(std::int64_t id) const;

private:
    struct Best {
        std::int64_t id = 0;
        double score = 0.0;
        std::size_t start = 0;
        bool reached = false;
    };
    void relax(std::string_view text, std::size_t start, std::vector<Best> &best) const;

    // The map's keys look into pieces_, whose texts never move.
    std::vector<std::string> pieces_;
    std::vector<double> scores_;
    std::unordered_map<std::string_view, std::int64_t> ids_;
    std::vector<std::size_t> longest_; // by first byte
    std::int64_t unknown_id_ = 0;
    double unknown_score_ = 0.0;
};

} // namespace minit2i
