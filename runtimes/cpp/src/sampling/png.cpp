#include "sampling/png.hpp"

#include "common/failure.hpp"
#include "common/unicode.hpp"

#include <png.h>

#include <csetjmp>
#include <new>
#include <vector>

namespace minit2i {
namespace {

constexpr int kFastestCompression = 1;

// Latin-1 bytes of UTF-8 text; false where a character has none.
bool to_latin1(const std::string &text, std::string &latin1) {
    latin1.clear();
    for (std::size_t at = 0; at < text.size();) {
        const Character c = decode_at(text, at);
        if (c.value > 0xff) {
            return false;
        }
        latin1 += static_cast<char>(c.value);
        at += c.num_bytes;
    }
    return true;
}

struct Field {
    std::string key;
    std::string text;
    bool is_latin1 = false;
};

void append(png_structp png, png_bytep data, png_size_t size) {
    // The library is C: no exception may pass through it.
    try {
        static_cast<std::string *>(png_get_io_ptr(png))
            ->append(reinterpret_cast<const char *>(data), size);
    } catch (const std::bad_alloc &) {
        png_error(png, "out of memory");
    }
}

void flush(png_structp) {}

// Its errors come back through setjmp, not to stderr.
[[noreturn]] void on_error(png_structp png, png_const_charp) { png_longjmp(png, 1); }

void on_warning(png_structp, png_const_charp) {}

// Holds no object with a destructor, because a failure jumps out of it.
bool write_png(png_structp png, png_infop info, const std::uint8_t *pixels, const Size &size,
               const png_text *texts, std::size_t num_texts) {
    if (setjmp(png_jmpbuf(png)) != 0) {
        return false;
    }
    const auto width = static_cast<png_uint_32>(size.width);
    const auto height = static_cast<png_uint_32>(size.height);
    png_set_IHDR(png, info, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(png, kFastestCompression);
    png_set_text(png, info, texts, static_cast<int>(num_texts));
    png_write_info(png, info);
    for (std::size_t row = 0; row < height; ++row) {
        png_write_row(png, pixels + row * width * 3);
    }
    png_write_end(png, nullptr);
    return true;
}

} // namespace

std::string encode_png(const std::uint8_t *pixels, const Size &size, const TextFields &fields) {
    std::vector<Field> stored;
    for (const auto &[key, text] : fields) {
        Field field{key, "", false};
        field.is_latin1 = to_latin1(text, field.text);
        if (!field.is_latin1) {
            field.text = text;
        }
        stored.push_back(std::move(field));
    }
    std::vector<png_text> texts(stored.size());
    char no_language[] = "";
    for (std::size_t index = 0; index < stored.size(); ++index) {
        png_text &text = texts[index];
        text = {};
        text.compression =
            stored[index].is_latin1 ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
        text.key = stored[index].key.data();
        text.text = stored[index].text.data();
        text.text_length = stored[index].is_latin1 ? stored[index].text.size() : 0;
        text.itxt_length = stored[index].is_latin1 ? 0 : stored[index].text.size();
        text.lang = no_language;
        text.lang_key = no_language;
    }
    std::string bytes;
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, on_error, on_warning);
    png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
    if (info == nullptr) {
        png_destroy_write_struct(&png, nullptr);
        throw std::bad_alloc();
    }
    png_set_write_fn(png, &bytes, append, flush);
    const bool done = write_png(png, info, pixels, size, texts.data(), texts.size());
    png_destroy_write_struct(&png, &info);
    if (!done) {
        fail_runtime("libpng cannot encode the image");
    }
    return bytes;
}

} // namespace minit2i
