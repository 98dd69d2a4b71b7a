// One graph on ONNX Runtime.
#pragma once

#include "engine/cuda_gate.hpp"
#include "engine/ort_api.hpp"
#include "engine/placement.hpp"
#include "engine/run_control.hpp"

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

namespace minit2i {

// A float32 array and its sizes.
struct Tensor {
    std::vector<float> values;
    std::vector<std::int64_t> shape;
};

// Throws what engine_reason makes of an error, after a place and a colon.
[[noreturn]] void fail_engine(const std::string &where, const Ort::Exception &error);

class GraphSession {
public:
    // serial: runs take turns, for providers that are not known to be safe under threads.
    // log: what the session writes to as long as it lives.
    GraphSession(std::string graph, Ort::Session session, bool serial,
                 std::shared_ptr<const PlacementLog> log);
    GraphSession(const GraphSession &) = delete;
    GraphSession &operator=(const GraphSession &) = delete;
    // Frees its memory on the device, which ends a recording as any call does.
    ~GraphSession();

    // The first output, which must be float32.
    Tensor run(const std::vector<const char *> &names, const std::vector<Ort::Value> &inputs,
               RunControl &control);
    // An empty binding of this session, which may not outlive it.
    Ort::IoBinding binding() { return Ort::IoBinding(session_); }
    // Runs with options of its own, which a cancellation does not reach.
    void run_binding(Ort::IoBinding &binding, const Ort::RunOptions &options);
    // bind: fills a binding of this session before the run, and gives it. What it binds elsewhere
    // than in the session's memory is copied there once.
    template <typename Bind> void run_bound(Bind bind, RunControl &control) {
        run_guarded([&] { session_.Run(control.options(), bind()); }, control);
    }

private:
    template <typename Work> void run_guarded(Work work, RunControl &control) {
        const std::shared_lock<CudaGate> gate(cuda_gate());
        std::unique_lock<std::mutex> lock(turn_, std::defer_lock);
        if (serial_) {
            lock.lock();
        }
        control.check();
        try {
            work();
        } catch (const Ort::Exception &error) {
            // A run that was stopped is an error to the library.
            control.check();
            fail_engine("onnxruntime failed in " + graph_, error);
        }
    }

    std::string graph_;
    std::shared_ptr<const PlacementLog> log_;
    Ort::Session session_;
    bool serial_;
    std::mutex turn_;
};

Ort::MemoryInfo cpu_memory();

// Memory of a vector as a tensor, without a copy.
template <typename T>
Ort::Value view(std::vector<T> &values, const std::vector<std::int64_t> &shape) {
    return Ort::Value::CreateTensor<T>(cpu_memory(), values.data(), values.size(), shape.data(),
                                       shape.size());
}

} // namespace minit2i
