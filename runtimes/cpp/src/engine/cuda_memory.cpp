#include "engine/cuda_memory.hpp"

#include "common/failure.hpp"
#include "engine/cuda_gate.hpp"

#include <dlfcn.h>

#include <mutex>
#include <shared_mutex>
#include <string>

namespace minit2i {

// CUDA's own functions; its enumerations are int here.
struct CudaFunctions {
    int (*set_device)(int) = nullptr;
    int (*allocate)(void **, std::size_t) = nullptr;
    int (*release)(void *) = nullptr;
    int (*copy)(void *, const void *, std::size_t, int) = nullptr;
    int (*wait_for_stream)(void *) = nullptr;
    int (*wait_for_device)() = nullptr;
    const char *(*text_of)(int) = nullptr;
};

namespace {

constexpr int kMemoryAllocation = 2; // cudaErrorMemoryAllocation
constexpr int kHostToDevice = 1;
constexpr int kDeviceToHost = 2;

void *required_library() {
    if (void *library = cuda_library()) {
        return library;
    }
    fail_runtime("provider cuda: CUDA's runtime library (libcudart.so.13 or .12) is not loaded, "
                 "so steps cannot be recorded; choose cuda_graph off");
}

template <typename Function> void find(void *library, const char *name, Function &function) {
    function = reinterpret_cast<Function>(::dlsym(library, name));
    if (function == nullptr) {
        fail_runtime(std::string("provider cuda: CUDA's runtime library has no ") + name +
                     ", so steps cannot be recorded; choose cuda_graph off");
    }
}

std::shared_ptr<const CudaFunctions> find_functions() {
    void *library = required_library();
    CudaFunctions result;
    find(library, "cudaSetDevice", result.set_device);
    find(library, "cudaMalloc", result.allocate);
    find(library, "cudaFree", result.release);
    find(library, "cudaMemcpy", result.copy);
    find(library, "cudaStreamSynchronize", result.wait_for_stream);
    find(library, "cudaDeviceSynchronize", result.wait_for_device);
    find(library, "cudaGetErrorString", result.text_of);
    return std::make_shared<const CudaFunctions>(result);
}

} // namespace

void *cuda_library() {
    for (const char *name : {"libcudart.so.13", "libcudart.so.12"}) {
        if (void *library = ::dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) {
            return library;
        }
    }
    return nullptr;
}

CudaGate &cuda_gate() {
    static CudaGate gate;
    return gate;
}

CudaMemory::CudaMemory(int device) : functions_(find_functions()), device_(device) {}

DeviceBlock CudaMemory::allocate(std::size_t bytes) const {
    void *block = nullptr;
    {
        const std::shared_lock<CudaGate> lock(cuda_gate());
        use_device();
        check(functions_->allocate(&block, bytes), "memory of the GPU");
    }
    // Outside: where the pointer's own memory is short, the block is released at once.
    return {block, [functions = functions_](void *address) {
                const std::shared_lock<CudaGate> release_lock(cuda_gate());
                functions->release(address);
            }};
}

void CudaMemory::to_device(void *to, const void *from, std::size_t bytes) const {
    const std::shared_lock<CudaGate> lock(cuda_gate());
    use_device();
    check(functions_->copy(to, from, bytes, kHostToDevice), "a copy to the GPU");
    // Of memory that is not pinned, the copy returns when its source may change, which is sooner.
    check(functions_->wait_for_stream(nullptr), "a copy to the GPU");
}

void CudaMemory::to_host(void *to, const void *from, std::size_t bytes) const {
    const std::shared_lock<CudaGate> lock(cuda_gate());
    use_device();
    check(functions_->copy(to, from, bytes, kDeviceToHost), "a copy from the GPU");
}

void CudaMemory::wait() const {
    const std::shared_lock<CudaGate> lock(cuda_gate());
    use_device();
    check(functions_->wait_for_device(), "waiting for the GPU");
}

void CudaMemory::use_device() const { check(functions_->set_device(device_), "the GPU"); }

void CudaMemory::check(int status, const char *what) const {
    if (status == kMemoryAllocation) {
        throw Failure(MINIT2I_ERROR_MEMORY, std::string(what) +
                                                ": out of memory; free some, or use a smaller "
                                                "batch");
    }
    if (status != 0) {
        fail_runtime(std::string(what) + ": CUDA says " + functions_->text_of(status));
    }
}

} // namespace minit2i
