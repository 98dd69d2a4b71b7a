// The state of one batch on recorded steps.
#pragma once

#include "engine/graph_place.hpp"
#include "engine/step_graphs.hpp"
#include "engine/trajectory.hpp"

#include <memory>
#include <vector>

namespace minit2i {

class RecordedTrajectory : public Trajectory {
public:
    RecordedTrajectory(std::shared_ptr<StepGraphs> graphs, Tensor start, std::vector<StepRow> rows,
                       StepInputs inputs, bool draws_noise);
    ~RecordedTrajectory() override;

    // The session of the call is the graphs'. A row that is not asked for on the host is queued
    // once graphs have passed their checks, and not waited for.
    void step(const StepCall &call, RunControl &control) override;

private:
    bool may_be_resident() const;
    void run_row(const StepCall &call);
    void read_state();

    std::shared_ptr<StepGraphs> graphs_;
    StepInputs inputs_;
    bool draws_noise_;
    std::unique_ptr<GraphPlace> place_;
    int reading_ = 0;
    bool is_resident_ = false;
};

} // namespace minit2i
