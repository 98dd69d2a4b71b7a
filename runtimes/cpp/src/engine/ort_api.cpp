#include "engine/ort_api.hpp"

#include "common/failure.hpp"

#include <algorithm>
#include <cstdio>
#include <string>

namespace minit2i {
namespace {

int read_version() {
    const std::string version = OrtGetApiBase()->GetVersionString();
    int major = 0;
    int minor = 0;
    if (std::sscanf(version.c_str(), "%d.%d", &major, &minor) != 2 || major != 1 ||
        minor < kMinOrtApi) {
        fail_runtime("onnxruntime is " + version + ", but 1." + std::to_string(kMinOrtApi) +
                     " or later (1.x) is needed; load a newer library");
    }
    return minor;
}

int shared_api() {
    // A version that the library lacks would be answered with NULL and a line on stderr.
    const int api = std::min(library_version(), ORT_API_VERSION);
    Ort::InitApi(OrtGetApiBase()->GetApi(static_cast<std::uint32_t>(api)));
    return api;
}

} // namespace

int library_version() {
    static const int version = read_version();
    return version;
}

int load_ort_api() {
    static const int api = shared_api();
    return api;
}

} // namespace minit2i
