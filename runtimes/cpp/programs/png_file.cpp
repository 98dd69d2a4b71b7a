#include "png_file.hpp"

#include "arguments.hpp"
#include "files.hpp"

#include <png.h>

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <new>

namespace programs {
namespace {

constexpr std::size_t kSignatureBytes = 8;
constexpr std::size_t kChannels = 4;

struct Source {
    const std::string &bytes;
    std::size_t at = 0;
    std::string reason; // of a failure
};

void take(png_structp png, png_bytep data, png_size_t size) {
    auto &source = *static_cast<Source *>(png_get_io_ptr(png));
    if (size > source.bytes.size() - source.at) {
        png_error(png, "cut short");
    }
    std::memcpy(data, source.bytes.data() + source.at, size);
    source.at += size;
}

// Its errors come back through setjmp, not to stderr.
[[noreturn]] void on_error(png_structp png, png_const_charp text) {
    static_cast<Source *>(png_get_error_ptr(png))->reason = text;
    png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

// Both hold no object with a destructor, because a failure jumps out of them.
bool read_header(png_structp png, png_infop info) {
    if (setjmp(png_jmpbuf(png)) != 0) {
        return false;
    }
    png_read_info(png, info);
    return true;
}

// 8 bits of red, green, blue and alpha, whatever the file has.
bool read_rows(png_structp png, png_infop info, png_bytepp rows) {
    if (setjmp(png_jmpbuf(png)) != 0) {
        return false;
    }
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_set_add_alpha(png, 0xff, PNG_FILLER_AFTER);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    png_read_image(png, rows);
    png_read_end(png, nullptr);
    return true;
}

[[noreturn]] void refuse(const std::string &path, const std::string &reason) {
    throw UsageError(path + ": cannot be read as PNG: " + reason);
}

// Owns libpng's structures for one file.
class Reader {
public:
    explicit Reader(Source &source)
        : png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, on_error, on_warning)),
          info_(png_ == nullptr ? nullptr : png_create_info_struct(png_)) {
        if (info_ == nullptr) {
            png_destroy_read_struct(&png_, nullptr, nullptr);
            throw std::bad_alloc();
        }
        png_set_read_fn(png_, &source, take);
    }
    Reader(const Reader &) = delete;
    Reader &operator=(const Reader &) = delete;
    ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }

    png_structp png() const { return png_; }
    png_infop info() const { return info_; }
    bool may_be_transparent() const {
        return (png_get_color_type(png_, info_) & PNG_COLOR_MASK_ALPHA) != 0 ||
               png_get_valid(png_, info_, PNG_INFO_tRNS) != 0;
    }

private:
    png_structp png_;
    png_infop info_;
};

struct Rgba {
    std::vector<std::uint8_t> values; // [height, width, 4]
    bool may_be_transparent = false;
};

Rgba read_rgba(const std::string &path, const ImageSize &size) {
    const std::string bytes = read_file(path);
    const auto *start = reinterpret_cast<png_const_bytep>(bytes.data());
    if (bytes.size() < kSignatureBytes || png_sig_cmp(start, 0, kSignatureBytes) != 0) {
        refuse(path, "it is another kind of file; convert it");
    }
    Source source{bytes, 0, ""};
    const Reader reader(source);
    if (!read_header(reader.png(), reader.info())) {
        refuse(path, source.reason);
    }
    const std::size_t width = png_get_image_width(reader.png(), reader.info());
    const std::size_t height = png_get_image_height(reader.png(), reader.info());
    if (width != size.width || height != size.height) {
        throw UsageError(path + ": is " + std::to_string(width) + " x " + std::to_string(height) +
                         " pixels, but the images to generate are " + std::to_string(size.width) +
                         " x " + std::to_string(size.height) + "; scale it");
    }
    Rgba result{std::vector<std::uint8_t>(width * height * kChannels), reader.may_be_transparent()};
    std::vector<png_bytep> rows;
    for (std::size_t row = 0; row < height; ++row) {
        rows.push_back(result.values.data() + row * width * kChannels);
    }
    if (!read_rows(reader.png(), reader.info(), rows.data())) {
        refuse(path, source.reason);
    }
    return result;
}

// A channel from 0 to 255, what is transparent lying on white.
float on_white(const std::uint8_t *pixel, std::size_t channel) {
    const unsigned alpha = pixel[kChannels - 1];
    return static_cast<float>((pixel[channel] * alpha + 255U * (255U - alpha) + 127U) / 255U);
}

} // namespace

PngImage read_png(const std::string &path, const ImageSize &size) {
    const Rgba rgba = read_rgba(path, size);
    const std::size_t plane = size.width * size.height;
    PngImage image{std::vector<float>(3 * plane), {}};
    for (std::size_t at = 0; at < plane; ++at) {
        const std::uint8_t *pixel = rgba.values.data() + at * kChannels;
        for (std::size_t channel = 0; channel < 3; ++channel) {
            image.pixels[channel * plane + at] = on_white(pixel, channel) / 127.5F - 1.0F;
        }
        if (rgba.may_be_transparent) {
            image.opaque.push_back(static_cast<float>(pixel[kChannels - 1]) / 255.0F);
        }
    }
    return image;
}

std::vector<float> read_png_mask(const std::string &path, const ImageSize &size) {
    const PngImage image = read_png(path, size);
    const std::size_t plane = size.width * size.height;
    std::vector<float> brightness;
    for (std::size_t at = 0; at < plane; ++at) {
        // The weights of ITU-R 601, as Pillow's conversion to grayscale; they add up to 65536.
        const double sum = 19595.0 * (image.pixels[at] + 1.0F) +
                           38470.0 * (image.pixels[plane + at] + 1.0F) +
                           7471.0 * (image.pixels[2 * plane + at] + 1.0F);
        const double byte = std::floor(sum * 127.5 / 65536.0 + 0.5);
        brightness.push_back(static_cast<float>(byte / 255.0));
    }
    return brightness;
}

} // namespace programs
