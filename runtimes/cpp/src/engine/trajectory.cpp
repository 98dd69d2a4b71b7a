#include "engine/trajectory.hpp"

#include <algorithm>
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

Trajectory::Trajectory(Tensor start, Tensor tokens, bool per_image, Ort::MemoryInfo memory,
                       Known known)
    : shape_(std::move(start.shape)), tokens_(std::move(tokens)), per_image_(per_image),
      memory_(std::move(memory)), known_(std::move(known)), x_(std::move(start.values)),
      h_(x_.size()) {
    now_x_ = view(x_, shape_);
    now_h_ = view(h_, shape_);
    if (!per_image_) {
        return;
    }
    known_.image.resize(x_.size());
    known_.mask.resize(static_cast<std::size_t>(shape_[0] * shape_[2] * shape_[3]));
    for (std::int64_t place = 0; place < tokens_.shape[0] * shape_[0]; ++place) {
        image_.push_back(place % shape_[0]);
        sequence_.push_back(place);
    }
}

Ort::IoBinding &Trajectory::binding_of(GraphSession &session, std::int64_t branches) {
    const auto key = std::make_pair(&session, branches);
    const auto known = bindings_.find(key);
    if (known != bindings_.end()) {
        return known->second;
    }
    Ort::IoBinding binding = session.binding();
    bind_steady(binding, branches);
    return bindings_.emplace(key, std::move(binding)).first->second;
}

void Trajectory::step(GraphSession &session, std::array<float, 6> row,
                      const std::vector<float> &weights, const std::vector<float> &noise,
                      RunControl &control, bool to_host) {
    if (!noise.empty()) {
        h_ = noise;
        now_h_ = view(h_, shape_);
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
    const auto branches = static_cast<std::int64_t>(weights.size());
    const Ort::MemoryInfo host = cpu_memory();
    session.run_bound(
        [&]() -> Ort::IoBinding & {
            Ort::IoBinding &binding = binding_of(session, branches);
            binding.BindInput("x", now_x_);
            binding.BindInput("h", now_h_);
            bind_row(binding, rows, each_weight, branches);
            // Bound anew, or the run would write to the values of the last one.
            for (const char *name : {"x_next", "h_next"}) {
                binding.BindOutput(name, to_host ? host : memory_);
            }
            return binding;
        },
        control);
    take_outputs(binding_of(session, branches), to_host);
}

// The first so many branches of the tokens take part.
void Trajectory::bind_steady(Ort::IoBinding &binding, std::int64_t branches) {
    const std::int64_t batch = shape_[0];
    const std::int64_t length = tokens_.shape[2];
    const std::int64_t width = tokens_.shape[3];
    if (!per_image_) {
        binding.BindInput("tokens", first_part(tokens_.values, {branches, batch, length, width}));
        return;
    }
    const std::int64_t sequences = branches * batch;
    binding.BindInput("tokens", first_part(tokens_.values, {sequences, length, width}));
    binding.BindInput("image", first_part(image_, {sequences}));
    binding.BindInput("sequence", first_part(sequence_, {branches, batch}));
    binding.BindInput("known", view(known_.image, shape_));
    binding.BindInput("known_mask", view(known_.mask, {batch, 1, shape_[2], shape_[3]}));
}

void Trajectory::bind_row(Ort::IoBinding &binding, std::vector<float> &rows,
                          std::vector<float> &weights, std::int64_t branches) {
    if (per_image_) {
        binding.BindInput("weights", view(weights, {branches, shape_[0]}));
        binding.BindInput("row", view(rows, {shape_[0], 6}));
        return;
    }
    binding.BindInput("weights", view(weights, {branches}));
    binding.BindInput("row", view(rows, {6}));
}

void Trajectory::take_outputs(Ort::IoBinding &binding, bool to_host) {
    std::vector<Ort::Value> outputs = binding.GetOutputValues();
    now_x_ = std::move(outputs[0]);
    now_h_ = std::move(outputs[1]);
    if (!to_host) {
        return;
    }
    before_.swap(x_);
    x_.resize(before_.size());
    // The const form of this calls a function that libraries before 1.23 lack.
    std::copy_n(now_x_.GetTensorMutableData<float>(), x_.size(), x_.begin());
    std::copy_n(now_h_.GetTensorMutableData<float>(), h_.size(), h_.begin());
}

std::vector<float> Trajectory::estimate(float slope) const {
    std::vector<float> result = h_;
    for (std::size_t at = 0; slope != 0.0F && at < result.size(); ++at) {
        result[at] -= slope * before_[at];
    }
    return result;
}

} // namespace minit2i
