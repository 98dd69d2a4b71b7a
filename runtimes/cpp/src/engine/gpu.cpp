#include "engine/gpu.hpp"

#include "engine/cuda_memory.hpp"

#include <dlfcn.h>

#include <array>
#include <map>

namespace minit2i {
namespace {

// Of cuda_runtime_api.h: cudaDevAttrComputeCapabilityMajor and Minor.
constexpr int kMajor = 75;
constexpr int kMinor = 76;
// cudaDeviceProp begins with the name; it has about a thousand bytes.
constexpr std::size_t kPropertiesBytes = 4096;

// First compute capability with kernels of a precision, or 0; as runtimes/cuda/devices.py says.
int least_capability(const std::string &precision) {
    static const std::map<std::string, int> least{
        {"bf16", 80}, {"fp8", 89}, {"mxfp8", 100}, {"fp4", 100}};
    const auto found = least.find(precision);
    return found == least.end() ? 0 : found->second;
}

// 0 where it cannot be asked.
int capability_of(void *library, int device) {
    const auto attribute =
        reinterpret_cast<int (*)(int *, int, int)>(::dlsym(library, "cudaDeviceGetAttribute"));
    int major = 0;
    int minor = 0;
    if (attribute == nullptr || attribute(&major, kMajor, device) != 0 ||
        attribute(&minor, kMinor, device) != 0) {
        return 0;
    }
    return 10 * major + minor;
}

std::string name_of(void *library, int device) {
    const auto properties =
        reinterpret_cast<int (*)(void *, int)>(::dlsym(library, "cudaGetDeviceProperties"));
    std::array<char, kPropertiesBytes> values{};
    if (properties == nullptr || properties(values.data(), device) != 0) {
        return "this GPU";
    }
    return values.data();
}

std::string dotted(int capability) {
    return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

} // namespace

std::string gpu_lacks(const std::string &precision, int device) {
    void *library = cuda_library();
    const int least = least_capability(precision);
    if (library == nullptr || least == 0) {
        return "";
    }
    const int capability = capability_of(library, device);
    if (capability == 0 || capability >= least) {
        return "";
    }
    return "which " + name_of(library, device) + " (compute capability " + dotted(capability) +
           ") does not compute, because that takes " + dotted(least) +
           "; export the checkpoint with --precision fp16";
}

} // namespace minit2i
