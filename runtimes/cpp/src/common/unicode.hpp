// The little of Unicode that prompts need: UTF-8, white space, and which characters belong to
// the one before them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace minit2i {

struct Character {
    char32_t value;
    std::size_t num_bytes; // 0: no valid UTF-8 here
};

// The character that starts at a byte.
Character decode_at(std::string_view text, std::size_t at);

// Refuses NUL and broken UTF-8; index is the prompt's, for the message.
void check_text(std::string_view text, std::size_t index);

bool is_white_space(char32_t c);

// End of the user-perceived character (grapheme cluster) that starts at a byte of valid UTF-8.
// Exact as far as normalisation can tell, which looks at clusters of less than 6 bytes only.
std::size_t cluster_end(std::string_view text, std::size_t at);

} // namespace minit2i
