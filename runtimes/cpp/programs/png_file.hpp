// PNG files in, as pixels of the network.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace programs {

// float32, -1 black to 1 white; what is transparent lies on white.
struct PngImage {
    std::vector<float> pixels; // [3, size, size]
    std::vector<float> opaque; // [1, size, size], 0 transparent to 1; empty without transparency
};

// A PNG of any depth and color type, whose width and height must both be size: that is checked
// before any pixel is decoded.
PngImage read_png(const std::string &path, std::size_t size);

// [1, size, size]: brightness of a PNG, 0 black to 1 white.
std::vector<float> read_png_mask(const std::string &path, std::size_t size);

} // namespace programs
