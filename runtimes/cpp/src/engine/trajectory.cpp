#include "engine/trajectory.hpp"

#include "common/failure.hpp"

#include <algorithm>

namespace minit2i {
namespace {

// Whoever reads it takes as many float32 values as the state has.
void check_output(const Ort::Value &output, const char *name,
                  const std::vector<std::int64_t> &shape) {
    const auto info = output.GetTensorTypeAndShapeInfo();
    if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || info.GetShape() != shape) {
        fail_runtime(std::string("transformer: its output ") + name +
                     " is not float32 of the state's shape; re-run minit2i export");
    }
}

} // namespace

Trajectory::Trajectory(Tensor start, std::vector<StepRow> rows)
    : shape_(std::move(start.shape)), rows_(std::move(rows)), x_(std::move(start.values)),
      h_(x_.size()) {}

std::vector<float> Trajectory::estimate(float slope) const {
    std::vector<float> result = h_;
    for (std::size_t at = 0; slope != 0.0F && at < result.size(); ++at) {
        result[at] -= slope * before_[at];
    }
    return result;
}

BoundTrajectory::BoundTrajectory(Tensor start, std::vector<StepRow> rows, StepInputs inputs,
                                 Ort::MemoryInfo memory)
    : Trajectory(std::move(start), std::move(rows)), inputs_(std::move(inputs)),
      memory_(std::move(memory)) {
    now_x_ = view(x_, shape_);
    now_h_ = view(h_, shape_);
}

Ort::IoBinding &BoundTrajectory::binding_of(GraphSession &session, std::int64_t branches) {
    const auto key = std::make_pair(&session, branches);
    const auto known = bindings_.find(key);
    if (known != bindings_.end()) {
        return known->second;
    }
    Ort::IoBinding binding = session.binding();
    for (const auto &[name, array] : inputs_.fixed(branches)) {
        binding.BindInput(name.c_str(), array.on_host());
    }
    return bindings_.emplace(key, std::move(binding)).first->second;
}

void BoundTrajectory::step(const StepCall &call, RunControl &control) {
    if (!call.noise.empty()) {
        h_ = call.noise;
        now_h_ = view(h_, shape_);
    }
    const StepRow &row = rows_[call.index];
    std::vector<float> row_values = inputs_.row_values(row);
    std::vector<float> weights = inputs_.weight_values(row);
    const Ort::MemoryInfo host = cpu_memory();
    call.session.run_bound(
        [&]() -> Ort::IoBinding & {
            Ort::IoBinding &binding = binding_of(call.session, row.branches());
            binding.BindInput("x", now_x_);
            binding.BindInput("h", now_h_);
            binding.BindInput("row", view(row_values, inputs_.row_shape()));
            binding.BindInput("weights", view(weights, inputs_.weights_shape(row.branches())));
            // Bound anew, or the run would write to the values of the last one.
            for (const char *name : {"x_next", "h_next"}) {
                binding.BindOutput(name, call.to_host ? host : memory_);
            }
            return binding;
        },
        control);
    take_outputs(binding_of(call.session, row.branches()), call.to_host);
}

void BoundTrajectory::take_outputs(Ort::IoBinding &binding, bool to_host) {
    std::vector<Ort::Value> outputs = binding.GetOutputValues();
    check_output(outputs[0], "x_next", shape_);
    check_output(outputs[1], "h_next", shape_);
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

} // namespace minit2i
