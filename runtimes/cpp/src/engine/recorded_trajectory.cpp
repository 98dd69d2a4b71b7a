#include "engine/recorded_trajectory.hpp"

#include <algorithm>
#include <set>

namespace minit2i {

RecordedTrajectory::RecordedTrajectory(std::shared_ptr<StepGraphs> graphs, Tensor start,
                                       std::vector<StepRow> rows, StepInputs inputs,
                                       bool draws_noise)
    : Trajectory(std::move(start), std::move(rows)), graphs_(std::move(graphs)),
      inputs_(std::move(inputs)), draws_noise_(draws_noise) {
    graphs_->worker().run([this] {
        place_ = graphs_->take(inputs_);
        place_->write_state(0, 0, x_);
        place_->write_state(0, 1, h_);
        std::set<std::int64_t> written;
        for (const StepRow &row : rows_) {
            if (written.insert(row.branches()).second) {
                place_->write_fixed(row.branches(), inputs_.fixed(row.branches()));
            }
        }
        is_resident_ = may_be_resident();
        if (is_resident_) {
            place_->write_table(inputs_, rows_);
        }
    });
}

RecordedTrajectory::~RecordedTrajectory() {
    try {
        graphs_->worker().run([this] { graphs_->give_back(std::move(place_)); });
    } catch (...) {
        // The place is lost; the next trajectory gets another one.
    }
}

bool RecordedTrajectory::may_be_resident() const {
    return graphs_->is_trusted() && !draws_noise_ && rows_.size() <= kMaxRows &&
           std::all_of(rows_.begin(), rows_.end(),
                       [](const StepRow &row) { return row.branches() <= kMaxBranches; });
}

void RecordedTrajectory::step(const StepCall &call, RunControl &control) {
    control.check();
    graphs_->worker().run([&] {
        run_row(call);
        reading_ = 1 - reading_;
        if (call.to_host) {
            read_state();
        }
    });
}

void RecordedTrajectory::run_row(const StepCall &call) {
    const StepRow &row = rows_[call.index];
    if (is_resident_) {
        GraphPlace::Step &step = place_->resident_step(reading_, call.index, row.branches());
        graphs_->run_resident(step.number, step.binding, call.to_host);
        return;
    }
    if (!call.noise.empty()) {
        place_->write_state(reading_, 1, call.noise);
    }
    place_->write_weights(row.branches(), inputs_.weight_values(row));
    GraphPlace::Step &step = place_->step(reading_, row.branches());
    graphs_->run_checked(step.number, step.binding, *place_, inputs_.row_values(row),
                         row.branches(), 1 - reading_);
}

void RecordedTrajectory::read_state() {
    before_.swap(x_);
    x_ = place_->read_state(reading_, 0);
    h_ = place_->read_state(reading_, 1);
}

} // namespace minit2i
