// The state of one batch of images on its way through a solver table.
#pragma once

#include "engine/step_inputs.hpp"

#include <map>
#include <utility>
#include <vector>

namespace minit2i {

// How one row is run.
struct StepCall {
    GraphSession &session;    // of a step graph; lives as long as the trajectory
    std::size_t index = 0;    // of the row
    std::vector<float> noise; // takes the place of h where the row asks for it, or empty
    bool to_host = false;     // x and estimate are asked for after this row
};

class Trajectory {
public:
    // start float32 [batch, 3, H, W]; rows are all that will be run.
    Trajectory(Tensor start, std::vector<StepRow> rows);
    Trajectory(const Trajectory &) = delete;
    Trajectory &operator=(const Trajectory &) = delete;
    virtual ~Trajectory() = default;

    virtual void step(const StepCall &call, RunControl &control) = 0;
    const std::vector<float> &x() const { return x_; }
    // The last row's guided estimate of the clean image: h - slope * (x before the row), where
    // slope is the row's s. Where it is not zero, the row before must have gone to the host too.
    std::vector<float> estimate(float slope) const;

protected:
    std::vector<std::int64_t> shape_;
    std::vector<StepRow> rows_;
    // On the host: x before the last row, x and h after it.
    std::vector<float> before_;
    std::vector<float> x_;
    std::vector<float> h_;
};

// Steps through bindings of ONNX Runtime. On a GPU the state stays in its memory from row to row,
// and tokens and known pixels go there once: of a row, only its numbers and the branches' weights
// cross.
class BoundTrajectory : public Trajectory {
public:
    // memory is where states are between rows.
    BoundTrajectory(Tensor start, std::vector<StepRow> rows, StepInputs inputs,
                    Ort::MemoryInfo memory);

    void step(const StepCall &call, RunControl &control) override;

private:
    Ort::IoBinding &binding_of(GraphSession &session, std::int64_t branches);
    void take_outputs(Ort::IoBinding &binding, bool to_host);

    StepInputs inputs_;
    Ort::MemoryInfo memory_;
    // What the next row reads: views of the vectors above, or values of the engine.
    Ort::Value now_x_{nullptr};
    Ort::Value now_h_{nullptr};
    // Each has what stays the same in all rows of so many branches.
    std::map<std::pair<GraphSession *, std::int64_t>, Ort::IoBinding> bindings_;
};

} // namespace minit2i
