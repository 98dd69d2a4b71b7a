// Memory of a GPU, by CUDA's runtime library, which ONNX Runtime's provider has loaded by then.
#pragma once

#include <cstddef>
#include <memory>

namespace minit2i {

// CUDA's runtime library that the provider has loaded, whichever version that is, or null.
void *cuda_library();

struct CudaFunctions;

// A block of a GPU's memory, which a null pointer stands for before it is allocated.
using DeviceBlock = std::shared_ptr<void>;

class CudaMemory {
public:
    // Throws a runtime failure where CUDA's library is not loaded.
    explicit CudaMemory(int device);

    // Throws a failure of memory where there is too little.
    DeviceBlock allocate(std::size_t bytes) const;
    // Both return when the copy is done.
    void to_device(void *to, const void *from, std::size_t bytes) const;
    void to_host(void *to, const void *from, std::size_t bytes) const;
    // Waits for all that the GPU has been asked for.
    void wait() const;

private:
    void use_device() const;
    void check(int status, const char *what) const;

    std::shared_ptr<const CudaFunctions> functions_;
    int device_;
};

} // namespace minit2i
