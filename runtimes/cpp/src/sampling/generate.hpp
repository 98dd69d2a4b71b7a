// From prompts to images: the main path, in order.
#pragma once

#include "bundle/bundle.hpp"
#include "common/callbacks.hpp"
#include "engine/engine.hpp"
#include "text/tokenizer.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace minit2i {

// An array of the caller; values is NULL where there is none.
struct FloatView {
    const float *values = nullptr;
    std::size_t count = 0;
};

// What the caller asks for; minit2i.h says what each field means.
struct Request {
    std::vector<std::vector<std::string_view>> prompts; // [images][parts]
    std::vector<double> weights;                        // [parts]
    std::vector<std::uint64_t> seeds;                   // [images]
    std::optional<std::string_view> negative;
    std::string preset;
    std::string table;     // a name, or a .json file
    double guidance = 0.0; // NaN: the preset's
    std::optional<std::pair<double, double>> interval;
    Size size;                    // 0 x 0: the bundle's
    const float *noise = nullptr; // float32 [images, 3, height, width]
    std::size_t noise_count = 0;
    FloatView init_image;
    double strength = 0.0; // NaN: no init_image
    FloatView known;
    FloatView known_mask;
};

// What a record says of an image's edit: hashes of its input images, and its strength.
struct EditRecord {
    std::string init_image;
    double strength = 0.0;
    std::string known;
    std::string mask;
};

// The images as they would be if this row were the last one.
struct Frame {
    std::size_t row = 0;
    std::size_t num_rows = 0;
    double t = 0.0;
    std::size_t num_images = 0;
    Size size;
    std::vector<float> estimate;      // float32 [images, 3, height, width]
    std::vector<std::uint8_t> pixels; // [images, height, width, 3]
};

using OnFrame = std::function<void(const Frame &frame)>;

struct Callbacks {
    RunControl &control;
    Progress progress;
    OnFrame on_frame; // may be empty
    Warn warn;
};

struct Generation {
    Size size;
    std::vector<float> state;         // float32 [images, 3, height, width]
    std::vector<std::uint8_t> pixels; // [images, height, width, 3]
    Table base_table;                 // complete, which a record names
    Table table;                      // the rows that were run
    double guidance = 0.0;
    double step_seconds = 0.0;
    std::vector<EditRecord> edits; // of each image, or empty
};

Generation generate(const Bundle &bundle, Engine &engine, const Tokenizer &tokenizer,
                    const Request &request, const Callbacks &callbacks);

} // namespace minit2i
