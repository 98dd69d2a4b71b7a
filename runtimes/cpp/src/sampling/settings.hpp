// What a request leaves open: table, guidance, weights of the branches, start noise.
#pragma once

#include "sampling/edit.hpp"
#include "sampling/generate.hpp"

namespace minit2i {

// A request with everything decided before the engine runs.
struct Settings {
    Table base_table; // complete
    Table table;      // the rows of it that are run: all, or those after the start of an edit
    double guidance = 0.0;
    std::vector<std::vector<float>> weights; // of each row: [branches]
    std::vector<float> conditions;           // float32 [4] of a few-step student, or empty
    bool guided = false;                     // whether any row runs the unconditional branch
    Size size;                               // of the images
    Edit edit;
};

// Throws a usage failure if the request does not fit together or not the bundle.
Settings settle(const Bundle &bundle, const Request &request);

// float32 [images, 3, height, width]: the start state, noise that is mixed into the image to begin
// with.
Tensor start_state(const Bundle &bundle, const Request &request, const Settings &settings);

// float32 [images, 3, height, width]: unit noise of each image's own seed, for a row that takes
// some.
std::vector<float> row_noise(const Request &request, const Size &size, std::size_t row);

} // namespace minit2i
