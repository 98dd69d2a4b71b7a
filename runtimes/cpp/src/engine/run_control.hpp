// Ends a call in progress from another thread.
#pragma once

#include "common/failure.hpp"
#include "engine/ort_api.hpp"

#include <atomic>

namespace minit2i {

// The run options stop ONNX Runtime between two nodes of a graph, long before a step ends.
class RunControl {
public:
    RunControl() {
        load_ort_api();
        options_ = Ort::RunOptions();
        // On a GPU, a session that may record CUDA graphs records nothing of these runs, and one
        // that told where its nodes are falls silent.
        options_.AddConfigEntry("gpu_graph_id", "-1");
        options_.SetRunLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
    }

    // A new call: an earlier cancellation is forgotten.
    void begin() {
        is_cancelled_ = false;
        options_.UnsetTerminate();
    }
    // For any thread.
    void cancel() {
        is_cancelled_ = true;
        options_.SetTerminate();
    }
    void check() const {
        if (is_cancelled_) {
            throw Failure(MINIT2I_ERROR_CANCELLED, "cancelled by the caller");
        }
    }
    const Ort::RunOptions &options() const { return options_; }

private:
    Ort::RunOptions options_{nullptr};
    std::atomic<bool> is_cancelled_{false};
};

} // namespace minit2i
