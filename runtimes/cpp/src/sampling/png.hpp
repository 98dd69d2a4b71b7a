// Images as PNG, with text fields.
#pragma once

#include "sampling/record.hpp"

#include <cstddef>
#include <cstdint>
#include <string>

namespace minit2i {

// pixels uint8 [size, size, 3] -> the bytes of a PNG file.
std::string encode_png(const std::uint8_t *pixels, std::size_t size, const TextFields &fields);

} // namespace minit2i
