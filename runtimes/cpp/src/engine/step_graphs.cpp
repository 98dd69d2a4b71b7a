#include "engine/step_graphs.hpp"

#include "common/failure.hpp"
#include "engine/cuda_gate.hpp"
#include "engine/graph_place.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <shared_mutex>

namespace minit2i {
namespace {

// The first replay follows a recording with another row, the second one another state: what a
// graph holds on to instead of reading it shows in one of them.
constexpr int kCheckedReplays = 2;
// Kernels that add up in no fixed order differ by far less, even in half precision; a stale state
// by far more.
constexpr float kMaxDifference = 2e-3F;
constexpr int kPlain = -1;

// Of the larger values; NaN is no match, and two states of zeros are one.
float difference(const std::vector<float> &actual, const std::vector<float> &expected) {
    float worst = 0.0F;
    float scale = 0.0F;
    for (std::size_t at = 0; at < actual.size(); ++at) {
        const float error = std::abs(actual[at] - expected[at]);
        if (!(error <= std::numeric_limits<float>::max())) {
            return std::numeric_limits<float>::infinity();
        }
        worst = std::max(worst, error);
        scale = std::max(scale, std::abs(expected[at]));
    }
    return worst == 0.0F ? 0.0F : worst / scale;
}

} // namespace

StepGraphs::StepGraphs(std::shared_ptr<GraphSession> session, int device, bool must, Warn warn)
    : session_(std::move(session)), must_(must), warn_(std::move(warn)), memory_(device),
      memory_info_("Cuda", OrtDeviceAllocator, device, OrtMemTypeDefault) {}

StepGraphs::~StepGraphs() = default;

std::unique_ptr<GraphPlace> StepGraphs::take(const StepInputs &inputs) {
    std::vector<std::unique_ptr<GraphPlace>> &places = free_[inputs.key()];
    if (places.empty()) {
        return std::make_unique<GraphPlace>(*this, inputs);
    }
    std::unique_ptr<GraphPlace> place = std::move(places.back());
    places.pop_back();
    return place;
}

void StepGraphs::give_back(std::unique_ptr<GraphPlace> place) {
    // The next one writes there, and a copy does not wait for what is queued.
    wait_if_queued();
    free_[place->key()].push_back(std::move(place));
}

void StepGraphs::wait_if_queued() {
    if (is_queued_) {
        memory_.wait();
        is_queued_ = false;
    }
}

bool StepGraphs::is_trusted() const {
    return is_used_ && std::any_of(checks_.begin(), checks_.end(), [](const auto &entry) {
               return entry.second >= kCheckedReplays;
           });
}

void StepGraphs::run_checked(int number, Ort::IoBinding &binding, GraphPlace &place,
                             const std::vector<float> &row, std::int64_t branches, int writing) {
    if (!is_used_) {
        place.write_row(branches, row);
        run(kPlain, binding, true, false);
        return;
    }
    if (checks_[number] == 0 && !record(number, binding, place, row, branches)) {
        return;
    }
    place.write_row(branches, row);
    run(number, binding, true, false);
    if (checks_[number] < kCheckedReplays) {
        check(number, binding, place, writing);
        ++checks_[number];
    }
}

void StepGraphs::run_resident(int number, Ort::IoBinding &binding, bool wait) {
    if (!is_used_) {
        run(kPlain, binding, wait, false);
        return;
    }
    const bool is_new = recorded_.count(number) == 0;
    try {
        run(number, binding, wait || is_new, is_new);
    } catch (const Failure &error) {
        if (must_ || !is_new) {
            throw;
        }
        give_up(error.what());
        run(kPlain, binding, true, false);
    }
    recorded_.insert(number);
}

// False where it failed and a plain run took its place.
bool StepGraphs::record(int number, Ort::IoBinding &binding, GraphPlace &place,
                        const std::vector<float> &row, std::int64_t branches) {
    // Another row: one that the graph keeps would show in the replay.
    std::vector<float> other = row;
    for (float &value : other) {
        value = value * 0.5F + 0.125F;
    }
    place.write_row(branches, other);
    try {
        run(number, binding, true, true);
    } catch (const Failure &error) {
        if (must_) {
            throw;
        }
        give_up(error.what());
        place.write_row(branches, row);
        run(kPlain, binding, true, false);
        return false;
    }
    return true;
}

void StepGraphs::check(int number, Ort::IoBinding &binding, const GraphPlace &place, int writing) {
    const auto written = [&] {
        return std::array{place.read_state(writing, 0), place.read_state(writing, 1)};
    };
    const std::array<std::vector<float>, 2> actual = written();
    // The plain run writes the same memory, so what stands there afterwards is right anyway.
    run(kPlain, binding, true, false);
    const std::array<std::vector<float>, 2> expected = written();
    const float worst =
        std::max(difference(actual[0], expected[0]), difference(actual[1], expected[1]));
    if (worst <= kMaxDifference) {
        return;
    }
    const std::string reason = "a CUDA graph of the step is off by " + std::to_string(worst) +
                               " from a plain run (graph " + std::to_string(number) + ")";
    if (must_) {
        fail_runtime("onnxruntime: " + reason + "; choose cuda_graph off");
    }
    give_up(reason);
}

void StepGraphs::give_up(const std::string &reason) {
    warn_(reason + "; running without CUDA graphs");
    is_used_ = false;
}

void StepGraphs::run(int number, Ort::IoBinding &binding, bool wait, bool records) {
    Ort::RunOptions options;
    options.SetRunLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
    options.AddConfigEntry("gpu_graph_id", std::to_string(number).c_str());
    if (!wait) {
        options.AddConfigEntry("disable_synchronize_execution_providers", "1");
    }
    is_queued_ = !wait;
    try {
        if (records) {
            const std::unique_lock<CudaGate> lock(cuda_gate());
            session_->run_binding(binding, options);
        } else {
            const std::shared_lock<CudaGate> lock(cuda_gate());
            session_->run_binding(binding, options);
        }
    } catch (const Failure &error) {
        const char *remedy = number == kPlain ? "" : "; cuda_graph off runs without CUDA graphs";
        throw Failure(error.status, error.what() + std::string(remedy));
    }
}

} // namespace minit2i
