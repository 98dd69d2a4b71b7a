// The state of one batch of images on its way through a solver table.
#pragma once

#include "engine/session.hpp"

#include <array>
#include <vector>

namespace minit2i {

// Two pairs (x, h) of buffers that swap roles from row to row.
class Trajectory {
public:
    // start float32 [batch, 3, H, W]; tokens float32 [branches, batch, adapted, hidden].
    Trajectory(Tensor start, Tensor tokens);

    // session is that of a step graph; another one may take the next row. noise takes the place
    // of h where the row asks for it; it may be empty.
    void step(GraphSession &session, std::array<float, 6> row, std::vector<float> weights,
              const std::vector<float> &noise, RunControl &control);
    const std::vector<float> &x() const { return buffers_[now_][0]; }
    // The last row's guided estimate of the clean image: h - slope * (x before the row), where
    // slope is the row's s.
    std::vector<float> estimate(float slope) const;

private:
    Ort::MemoryInfo memory_;
    std::vector<std::int64_t> shape_;
    Tensor tokens_;
    std::array<std::array<std::vector<float>, 2>, 2> buffers_;
    std::size_t now_ = 0;
};

} // namespace minit2i
