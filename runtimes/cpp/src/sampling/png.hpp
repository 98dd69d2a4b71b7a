// Images as PNG, with text fields.
#pragma once

#include "sampling/record.hpp"

#include <cstddef>
#include <cstdint>
#include <string>

namespace minit2i {

// pixels uint8 [height, width, 3] -> the bytes of a PNG file.
std::string encode_png(const std::uint8_t *pixels, const Size &size, const TextFields &fields);

} // namespace minit2i
