// PNG files in, as pixels of the network.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace programs {

// float32, -1 black to 1 white; what is transparent lies on white.
struct PngImage {
    std::vector<float> pixels; // [3, height, width]
    std::vector<float> opaque; // [1, height, width], 0 transparent to 1; empty if nothing is
};

struct ImageSize {
    std::size_t width = 0;
    std::size_t height = 0;
};

// A PNG of any depth and color type, which must have that size: it is checked before any pixel is
// decoded.
PngImage read_png(const std::string &path, const ImageSize &size);

// [1, height, width]: brightness of a PNG, 0 black to 1 white.
std::vector<float> read_png_mask(const std::string &path, const ImageSize &size);

} // namespace programs
