// What keeps other calls away from CUDA while a graph is recorded.
#pragma once

#include <mutex>
#include <shared_mutex>

namespace minit2i {

// Held shared by whatever calls CUDA, and alone while a graph is recorded: a call of another thread
// that may allocate would end the recording. For std::shared_lock and std::unique_lock.
//
// A recording that waits goes before new shares; std::shared_mutex alone may let shares that
// overlap keep it out for ever. So a thread that holds a share must not take another one, nor wait
// for a thread that does: it would wait for the recording, which waits for its share. None does: a
// share covers calls of CUDA's and ONNX Runtime's libraries alone. No callback of the caller runs
// under one, nothing is handed to a Worker, and what takes a share when it is destroyed (blocks of
// CudaMemory, GraphSession) is destroyed outside.
class CudaGate {
public:
    CudaGate() = default;
    CudaGate(const CudaGate &) = delete;
    CudaGate &operator=(const CudaGate &) = delete;

    void lock_shared() {
        const std::lock_guard<std::mutex> turn(queue_);
        gate_.lock_shared();
    }
    void unlock_shared() { gate_.unlock_shared(); }
    void lock() {
        const std::lock_guard<std::mutex> turn(queue_);
        gate_.lock();
    }
    void unlock() { gate_.unlock(); }

private:
    std::mutex queue_;
    std::shared_mutex gate_;
};

// One for the process, as CUDA's rule is.
CudaGate &cuda_gate();

} // namespace minit2i
