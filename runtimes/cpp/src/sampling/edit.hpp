// What an edit begins with and keeps, as minit2i_deploy/editing/edit.py.
#pragma once

#include "engine/trajectory.hpp"
#include "sampling/generate.hpp"

#include <vector>

namespace minit2i {

// A request's images, checked and repeated for the batch; all arrays are empty without them.
struct Edit {
    std::vector<float> init; // float32 [images, 3, height, width]
    double strength = 1.0;
    Known known;
    std::size_t plane = 0; // values of one channel

    // The time of the first row.
    double start() const { return 1.0 - strength; }
    // Mixes noise with the image to begin with.
    void begin(std::vector<float> &noise) const;
    // Of each image of the batch; empty where nothing is edited.
    std::vector<EditRecord> records(std::size_t num_images) const;
    // Puts the known pixels into a final state, whatever the table ends on.
    void finish(std::vector<float> &state) const;
};

// Throws a usage failure if the request's images do not fit together or not the bundle.
Edit checked_edit(const Bundle &bundle, const Request &request, const Size &size);

} // namespace minit2i
