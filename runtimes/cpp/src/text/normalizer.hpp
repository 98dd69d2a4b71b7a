// The text rules of a tokenizer.json: what happens to a prompt before it is cut into tokens.
#pragma once

#include "common/json.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace minit2i {

// SentencePiece's compiled replacements: a double-array trie over UTF-8, and the texts that its
// leaves point to.
class Charsmap {
public:
    explicit Charsmap(const std::string &bytes);
    std::string apply(std::string_view text) const;

private:
    // The replacement of the shortest known prefix, or nullptr.
    const char *find(std::string_view text) const;

    std::vector<std::uint32_t> units_;
    std::string texts_;
};

class Normalizer {
public:
    // The value of "normalizer"; throws JsonError at a rule that is unknown here.
    explicit Normalizer(const Json &value);
    std::string apply(std::string_view text) const;

private:
    enum class Kind { kCharsmap, kStripLeft, kStripRight, kReplace, kReplaceSpaces };
    struct Step {
        Kind kind;
        std::size_t charsmap = 0;
        std::string pattern;
        std::string content;
    };
    void add(const Json &value);
    void add_replace(const Json &value);

    std::vector<Step> steps_;
    std::vector<Charsmap> charsmaps_;
};

} // namespace minit2i
