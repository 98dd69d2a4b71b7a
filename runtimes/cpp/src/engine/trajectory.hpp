// The state of one batch of images on its way through a solver table.
#pragma once

#include "engine/session.hpp"

#include <array>
#include <vector>

namespace minit2i {

// Pixels that stay as they are: image float32 [batch, 3, H, W], mask float32 [batch, 1, H, W], 1
// known to 0 open. Both are empty where nothing is known.
struct Known {
    std::vector<float> image;
    std::vector<float> mask;
};

// Two pairs (x, h) of buffers that swap roles from row to row.
class Trajectory {
public:
    // start float32 [batch, 3, H, W]; tokens float32 [branches, batch, adapted, hidden]. per_image:
    // the step graph takes rows and weights of each image, and known pixels (bundle format 2).
    Trajectory(Tensor start, Tensor tokens, bool per_image, Known known = {});

    // session is that of a step graph; another one may take the next row. noise takes the place
    // of h where the row asks for it; it may be empty.
    void step(GraphSession &session, std::array<float, 6> row, const std::vector<float> &weights,
              const std::vector<float> &noise, RunControl &control);
    const std::vector<float> &x() const { return buffers_[now_][0]; }
    // The last row's guided estimate of the clean image: h - slope * (x before the row), where
    // slope is the row's s.
    std::vector<float> estimate(float slope) const;

private:
    void bind_inputs(Ort::IoBinding &binding, std::vector<float> &rows, std::vector<float> &weights,
                     std::int64_t branches);

    std::vector<std::int64_t> shape_;
    Tensor tokens_;
    bool per_image_;
    Known known_;
    // Place in the batch of each sequence's image, and 0, 1, 2, ..: the sequence of each branch.
    std::vector<std::int64_t> image_;
    std::vector<std::int64_t> sequence_;
    std::array<std::array<std::vector<float>, 2>, 2> buffers_;
    std::size_t now_ = 0;
};

} // namespace minit2i
