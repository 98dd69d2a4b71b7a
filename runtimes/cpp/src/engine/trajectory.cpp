#include "engine/trajectory.hpp"

#include <functional>
#include <numeric>

namespace minit2i {

Trajectory::Trajectory(Tensor start, Tensor tokens)
    : memory_(cpu_memory()), shape_(std::move(start.shape)), tokens_(std::move(tokens)) {
    const std::size_t count = start.values.size();
    buffers_[0] = {std::move(start.values), std::vector<float>(count)};
    buffers_[1] = {std::vector<float>(count), std::vector<float>(count)};
}

void Trajectory::step(GraphSession &session, std::array<float, 6> row, std::vector<float> weights,
                      const std::vector<float> &noise, RunControl &control) {
    auto &now = buffers_[now_];
    auto &next = buffers_[1 - now_];
    if (!noise.empty()) {
        now[1] = noise;
    }
    // The first so many branches of the tokens take part.
    const auto branches = static_cast<std::int64_t>(weights.size());
    std::vector<std::int64_t> token_shape = tokens_.shape;
    token_shape[0] = branches;
    const std::int64_t count = std::accumulate(token_shape.begin(), token_shape.end(),
                                               std::int64_t{1}, std::multiplies<>());
    const std::int64_t row_size = 6;
    session.run_bound(
        [&](Ort::IoBinding &binding) {
            binding.BindInput("x", view(now[0], shape_));
            binding.BindInput("h", view(now[1], shape_));
            binding.BindInput(
                "tokens", Ort::Value::CreateTensor<float>(memory_, tokens_.values.data(),
                                                          static_cast<std::size_t>(count),
                                                          token_shape.data(), token_shape.size()));
            binding.BindInput("weights", view(weights, {branches}));
            binding.BindInput("row", Ort::Value::CreateTensor<float>(memory_, row.data(),
                                                                     row.size(), &row_size, 1));
            binding.BindOutput("x_next", view(next[0], shape_));
            binding.BindOutput("h_next", view(next[1], shape_));
        },
        control);
    now_ = 1 - now_;
}

std::vector<float> Trajectory::estimate(float slope) const {
    std::vector<float> result = buffers_[now_][1];
    const std::vector<float> &before = buffers_[1 - now_][0];
    for (std::size_t at = 0; slope != 0.0F && at < result.size(); ++at) {
        result[at] -= slope * before[at];
    }
    return result;
}

} // namespace minit2i
