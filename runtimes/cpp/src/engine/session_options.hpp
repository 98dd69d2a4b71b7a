// Options that a session is opened with, for each provider in its own words. As
// runtimes/onnxruntime/provider_options.py.
#pragma once

#include "engine/ort_api.hpp"
#include "engine/provider.hpp"

#include <string>

namespace minit2i {

// precision is the graph's. records: the session may record CUDA graphs.
Ort::SessionOptions session_options(const ProviderChoice &choice, int num_threads,
                                    const std::string &precision, bool records);

} // namespace minit2i
