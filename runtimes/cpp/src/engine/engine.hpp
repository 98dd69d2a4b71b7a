// ONNX Runtime: the bundle's graphs as they are, each opened on first use, shared by threads.
#pragma once

#include "bundle/bundle.hpp"
#include "common/callbacks.hpp"
#include "engine/packed_graphs.hpp"
#include "engine/placement.hpp"
#include "engine/provider.hpp"
#include "engine/session.hpp"
#include "engine/step_graphs.hpp"
#include "engine/stored_sequences.hpp"
#include "engine/trajectory.hpp"

#include <chrono>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace minit2i {

class Engine {
public:
    // lean: the text encoder's session is dropped before the denoiser's is opened. warn gets a line
    // for a graph that this processor computes wrong.
    Engine(const Bundle &bundle, ProviderChoice choice, int num_threads, bool lean,
           const Warn &warn);

    // ids and mask int64 [n, tokens] -> float32 [n, tokens, width], finite. With lean and a cache
    // on provider cpu, a call that was made before needs no text encoder.
    Tensor encode(std::vector<std::int64_t> &ids, std::vector<std::int64_t> &mask, std::size_t n,
                  RunControl &control);
    // context float32 [n, length, width], mask int64 [n, length], conditions float32 [n, 4] or
    // empty -> float32 [n, adapted, hidden].
    Tensor adapt(Tensor &context, std::vector<std::int64_t> &mask, std::vector<float> &conditions,
                 RunControl &control);
    // The caller's share keeps a session alive that is dropped meanwhile.
    std::shared_ptr<GraphSession> session(const std::string &graph);
    // The state of a batch before its first row; rows are all that will be run.
    std::unique_ptr<Trajectory> start(Tensor state, Tensor tokens, Known known,
                                      std::vector<StepRow> rows, bool draws_noise);
    // The threads of a session do not live on in a forked process, where a run would wait for ever.
    void check_process() const;

private:
    // A session on its way, and the warnings of its thread.
    struct Ahead {
        std::shared_ptr<GraphSession> session;
        std::vector<std::string> warnings;
    };

    struct Slot {
        std::mutex mutex;
        std::shared_ptr<GraphSession> session;
        std::shared_ptr<StepGraphs> graphs; // of a session that records, or none
    };

    void warn_of_int8(const std::string &graph, const GraphInfo &info) const;
    bool records(const std::string &graph) const;
    void check_placement(const std::string &path, const PlacementLog &log) const;
    void check_gpu(const std::string &graph, const std::string &precision) const;
    std::shared_ptr<GraphSession> open_session(const std::string &graph, bool records,
                                               const Warn &warn,
                                               std::chrono::seconds wait = kCacheWait);
    Ort::Session cached_session(const std::string &graph, const Ort::SessionOptions &options,
                                const Warn &warn, std::chrono::seconds wait);
    // Opens the denoiser on a thread, after the encoder has left memory.
    void open_denoiser_ahead();
    // What that opened, once; null where it is to be opened by the caller, who then sees why not.
    std::shared_ptr<GraphSession> opened_ahead();
    void open_recording(Slot &slot);
    void open(const std::string &graph, Slot &slot);
    void check_outputs(const std::string &graph, GraphSession &session);
    // Where the provider keeps states between rows.
    Ort::MemoryInfo state_memory() const;
    Tensor run_encoder(GraphSession &session, std::vector<std::int64_t> &ids,
                       std::vector<std::int64_t> &mask, std::size_t n, RunControl &control);
    void check_encoder(GraphSession &session);
    // What a lean engine encoded, for the next process; null where nothing is kept.
    StoredSequences *sequences();
    void check_adapter(GraphSession &session);
    void check_step(GraphSession &session);
    Tensor run_adapter(GraphSession &session, Tensor &context, std::vector<std::int64_t> &mask,
                       std::vector<float> &conditions, RunControl &control);

    const Bundle &bundle_;
    ProviderChoice choice_;
    bool lean_;
    Warn warn_;
    int num_threads_;
    int ort_api_;
    std::int64_t process_id_;
    Ort::Env env_;
    // The keys do not change after the constructor, so that finding a slot needs no lock.
    std::map<std::string, Slot> slots_;
    std::once_flag sequences_once_;
    std::once_flag sequences_warned_;
    std::unique_ptr<StoredSequences> sequences_;
    std::mutex ahead_mutex_;
    bool is_denoiser_begun_ = false;
    // Its thread uses the rest, so it is waited for first.
    std::future<Ahead> ahead_;
};

} // namespace minit2i
