#include "engine/trajectory.hpp"

#include <cstdint>
#include <functional>
#include <numeric>

namespace minit2i {

namespace {

// The first values of an array as a tensor of this shape, without a copy.
template <typename T>
Ort::Value first_part(std::vector<T> &values, const std::vector<std::int64_t> &shape) {
    const std::int64_t count =
        std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    return Ort::Value::CreateTensor<T>(cpu_memory(), values.data(), static_cast<std::size_t>(count),
                                       shape.data(), shape.size());
}

} // namespace

Trajectory::Trajectory(Tensor start, Tensor tokens, bool per_image, Known known)
    : shape_(std::move(start.shape)), tokens_(std::move(tokens)), per_image_(per_image),
      known_(std::move(known)) {
    const std::size_t count = start.values.size();
    buffers_[0] = {std::move(start.values), std::vector<float>(count)};
    buffers_[1] = {std::vector<float>(count), std::vector<float>(count)};
    if (!per_image_) {
        return;
    }
    known_.image.resize(count);
    known_.mask.resize(static_cast<std::size_t>(shape_[0] * shape_[2] * shape_[3]));
    for (std::int64_t place = 0; place < tokens_.shape[0] * shape_[0]; ++place) {
        image_.push_back(place % shape_[0]);
        sequence_.push_back(place);
    }
}

void Trajectory::step(GraphSession &session, std::array<float, 6> row,
                      const std::vector<float> &weights, const std::vector<float> &noise,
                      RunControl &control) {
    auto &now = buffers_[now_];
    auto &next = buffers_[1 - now_];
    if (!noise.empty()) {
        now[1] = noise;
    }
    // Graphs of format 2 take them for each image.
    const std::size_t copies = per_image_ ? static_cast<std::size_t>(shape_[0]) : 1;
    std::vector<float> rows;
    for (std::size_t copy = 0; copy < copies; ++copy) {
        rows.insert(rows.end(), row.begin(), row.end());
    }
    std::vector<float> each_weight;
    for (const float weight : weights) {
        each_weight.insert(each_weight.end(), copies, weight);
    }
    session.run_bound(
        [&](Ort::IoBinding &binding) {
            binding.BindInput("x", view(now[0], shape_));
            binding.BindInput("h", view(now[1], shape_));
            bind_inputs(binding, rows, each_weight, static_cast<std::int64_t>(weights.size()));
            binding.BindOutput("x_next", view(next[0], shape_));
            binding.BindOutput("h_next", view(next[1], shape_));
        },
        control);
    now_ = 1 - now_;
}

// The first so many branches of the tokens take part.
void Trajectory::bind_inputs(Ort::IoBinding &binding, std::vector<float> &rows,
                             std::vector<float> &weights, std::int64_t branches) {
    const std::int64_t batch = shape_[0];
    const std::int64_t length = tokens_.shape[2];
    const std::int64_t width = tokens_.shape[3];
    if (!per_image_) {
        binding.BindInput("tokens", first_part(tokens_.values, {branches, batch, length, width}));
        binding.BindInput("weights", view(weights, {branches}));
        binding.BindInput("row", view(rows, {6}));
        return;
    }
    const std::int64_t sequences = branches * batch;
    binding.BindInput("tokens", first_part(tokens_.values, {sequences, length, width}));
    binding.BindInput("image", first_part(image_, {sequences}));
    binding.BindInput("sequence", first_part(sequence_, {branches, batch}));
    binding.BindInput("weights", view(weights, {branches, batch}));
    binding.BindInput("row", view(rows, {batch, 6}));
    binding.BindInput("known", view(known_.image, shape_));
    binding.BindInput("known_mask", view(known_.mask, {batch, 1, shape_[2], shape_[3]}));
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
