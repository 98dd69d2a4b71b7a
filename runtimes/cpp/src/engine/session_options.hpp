// Options that a session is opened with.
#pragma once

#include "bundle/manifest.hpp"
#include "engine/ort_api.hpp"
#include "engine/provider.hpp"

namespace minit2i {

// records: the session may record CUDA graphs.
Ort::SessionOptions session_options(const ProviderChoice &choice, int num_threads,
                                    const GraphInfo &graph, const Manifest &manifest, bool records);

} // namespace minit2i
