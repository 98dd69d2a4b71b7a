// The state of one batch of images on its way through a solver table.
#pragma once

#include "engine/session.hpp"

#include <array>
#include <map>
#include <utility>
#include <vector>

namespace minit2i {

// Pixels that stay as they are: image float32 [batch, 3, H, W], mask float32 [batch, 1, H, W], 1
// known to 0 open. Both are empty where nothing is known.
struct Known {
    std::vector<float> image;
    std::vector<float> mask;
};

// On a GPU the state stays in its memory from row to row, and tokens and known pixels go there
// once: of a row, only its numbers and the branches' weights cross.
class Trajectory {
public:
    // start float32 [batch, 3, H, W]; tokens float32 [branches, batch, adapted, hidden]. per_image:
    // the step graph takes rows and weights of each image, and known pixels (bundle format 2).
    // memory is where states are between rows.
    Trajectory(Tensor start, Tensor tokens, bool per_image, Ort::MemoryInfo memory,
               Known known = {});

    // session is that of a step graph, and lives as long as this; another one may take the next
    // row. noise takes the place of h where the row asks for it; it may be empty. to_host: x and
    // estimate are asked for after this row.
    void step(GraphSession &session, std::array<float, 6> row, const std::vector<float> &weights,
              const std::vector<float> &noise, RunControl &control, bool to_host);
    const std::vector<float> &x() const { return x_; }
    // The last row's guided estimate of the clean image: h - slope * (x before the row), where
    // slope is the row's s. Where it is not zero, the row before must have gone to the host too.
    std::vector<float> estimate(float slope) const;

private:
    Ort::IoBinding &binding_of(GraphSession &session, std::int64_t branches);
    void bind_steady(Ort::IoBinding &binding, std::int64_t branches);
    void bind_row(Ort::IoBinding &binding, std::vector<float> &rows, std::vector<float> &weights,
                  std::int64_t branches);
    void take_outputs(Ort::IoBinding &binding, bool to_host);

    std::vector<std::int64_t> shape_;
    Tensor tokens_;
    bool per_image_;
    Ort::MemoryInfo memory_;
    Known known_;
    // Place in the batch of each sequence's image, and 0, 1, 2, ..: the sequence of each branch.
    std::vector<std::int64_t> image_;
    std::vector<std::int64_t> sequence_;
    // On the host: x before the last row, x and h after it.
    std::vector<float> before_;
    std::vector<float> x_;
    std::vector<float> h_;
    // What the next row reads: views of the vectors above, or values of the engine.
    Ort::Value now_x_{nullptr};
    Ort::Value now_h_{nullptr};
    // Each has what stays the same in all rows of so many branches.
    std::map<std::pair<GraphSession *, std::int64_t>, Ort::IoBinding> bindings_;
};

} // namespace minit2i
