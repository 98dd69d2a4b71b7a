// Steps as CUDA graphs: a step's kernels are launched once by the host, not one by one. As
// runtimes/onnxruntime/cuda_graphs.py, which says why each rule is there.
//
// A graph replays what it recorded on the very memory it recorded, so all that a step reads or
// writes lies in fixed places: two pairs of states that swap, the row, and for each number of
// branches the tokens and the weights. One session serves them all; each place has a graph of its
// own, by the number that ONNX Runtime stores it under. Places outlive a trajectory and serve the
// next one of the same shape, because ONNX Runtime never frees a graph.
//
// No graph is trusted unchecked: its first replays are computed by plain runs as well.
#pragma once

#include "common/callbacks.hpp"
#include "engine/cuda_memory.hpp"
#include "engine/trajectory.hpp"
#include "engine/worker.hpp"

#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace minit2i {

class GraphPlace;

// The recorded steps of one session. All of it runs in the worker's thread.
class StepGraphs {
public:
    // must: a graph that differs from a plain run is an error; else a warning, after which all
    // runs are plain.
    StepGraphs(std::shared_ptr<GraphSession> session, int device, bool must, Warn warn);
    ~StepGraphs();

    Worker &worker() { return worker_; }
    const CudaMemory &memory() const { return memory_; }
    const Ort::MemoryInfo &memory_info() const { return memory_info_; }
    GraphSession &session() { return *session_; }
    int new_number() { return ++last_number_; }

    // A place that no living trajectory uses, and its return.
    std::unique_ptr<GraphPlace> take(const StepInputs &inputs);
    void give_back(std::unique_ptr<GraphPlace> place);

    // Replays a graph, recording it first where it is new, and checks its first replays. writing is
    // the pair of states that the step writes.
    void run_checked(int number, Ort::IoBinding &binding, GraphPlace &place,
                     const std::vector<float> &row, std::int64_t branches, int writing);
    // Records a graph, or replays it and waits for its end only where that is asked for.
    void run_resident(int number, Ort::IoBinding &binding, bool wait);
    // Whether some graph has passed its checks, and none has failed.
    bool is_trusted() const;
    void wait_if_queued();

private:
    bool record(int number, Ort::IoBinding &binding, GraphPlace &place,
                const std::vector<float> &row, std::int64_t branches);
    void check(int number, Ort::IoBinding &binding, const GraphPlace &place, int writing);
    void give_up(const std::string &reason);
    void run(int number, Ort::IoBinding &binding, bool wait, bool records);

    std::shared_ptr<GraphSession> session_;
    bool must_;
    Warn warn_;
    CudaMemory memory_;
    Ort::MemoryInfo memory_info_;
    bool is_used_ = true;
    bool is_queued_ = false;
    int last_number_ = 0;
    std::map<int, int> checks_;
    std::set<int> recorded_;
    std::map<std::vector<std::int64_t>, std::vector<std::unique_ptr<GraphPlace>>> free_;
    Worker worker_; // last: it ends before what it uses
};

} // namespace minit2i
