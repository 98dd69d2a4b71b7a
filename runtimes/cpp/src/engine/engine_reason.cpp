#include "engine/engine_reason.hpp"

#include <cstdlib>
#include <cstring>
#include <optional>

namespace minit2i {
namespace {

// Of a graph that fails, cuDNN prints every tensor.
constexpr std::size_t kMaxCharacters = 400;
constexpr char kOutOfMemory[] = "out of memory; free some, or use a smaller batch";
constexpr char kLibraryFolder[] = "with its folder in LD_LIBRARY_PATH (docs/guides/cpp.md)";

bool holds(const std::string &text, const char *sign) {
    return text.find(sign) != std::string::npos;
}

// What stands after a sign and before an end, or before the end of the text.
std::optional<std::string> between(const std::string &text, const char *sign, const char *end) {
    const std::size_t found = text.find(sign);
    if (found == std::string::npos) {
        return std::nullopt;
    }
    const std::size_t start = found + std::strlen(sign);
    return text.substr(start, text.find(end, start) - start);
}

// "35: CUDA driver version is insufficient for CUDA runtime version".
EngineReason cuda_reason(const std::string &failure) {
    const std::string text = "CUDA failure " + failure;
    switch (std::atoi(failure.c_str())) {
    case 2: // cudaErrorMemoryAllocation
        return {MINIT2I_ERROR_MEMORY, kOutOfMemory};
    case 35: // cudaErrorInsufficientDriver, also where there is no driver
        return {MINIT2I_ERROR_RUNTIME,
                text + "; install NVIDIA's driver, or a newer one, or choose provider cpu"};
    case 100: // cudaErrorNoDevice
        return {MINIT2I_ERROR_RUNTIME,
                text + "; there is no NVIDIA GPU on this machine, so choose provider cpu"};
    default:
        return {MINIT2I_ERROR_RUNTIME, text};
    }
}

EngineReason device_reason(const std::string &device, const std::string &count) {
    return {MINIT2I_ERROR_USAGE, "device is " + device + ", but this machine has " + count +
                                     " NVIDIA GPU" + (count == "1" ? "" : "s") + "; count from 0"};
}

} // namespace

EngineReason engine_reason(const std::string &message) {
    const std::string line = message.substr(0, message.find('\n'));
    // ONNX Runtime has no status of its own for this.
    if (holds(message, "bad_alloc") || holds(message, "Failed to allocate memory")) {
        return {MINIT2I_ERROR_MEMORY, kOutOfMemory};
    }
    if (const auto device = between(line, "Invalid device ID: ", ",")) {
        const auto count = between(line, "(inclusive) and ", " ");
        return device_reason(*device, count.value_or("fewer"));
    }
    if (holds(line, "Failed to load library ")) {
        if (const auto reason = between(line, " with error: ", "\n")) {
            const bool is_missing = holds(*reason, "cannot open shared object file");
            return {MINIT2I_ERROR_RUNTIME,
                    *reason + (is_missing ? std::string("; install that library, ") + kLibraryFolder
                                          : "")};
        }
    }
    if (const auto reason = between(line, "cuDNN is unavailable", "\n")) {
        return {MINIT2I_ERROR_RUNTIME,
                "cuDNN is unavailable" + *reason + "; install cuDNN 9, " + kLibraryFolder};
    }
    if (const auto failure = between(line, "CUDA failure ", " ;")) {
        return cuda_reason(*failure);
    }
    const bool is_long = line.size() > kMaxCharacters;
    return {MINIT2I_ERROR_RUNTIME, is_long ? line.substr(0, kMaxCharacters) + " ..." : line};
}

} // namespace minit2i
