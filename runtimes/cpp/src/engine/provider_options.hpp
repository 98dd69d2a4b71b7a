// Options of each provider in its own words, as runtimes/onnxruntime/provider_options.py gives
// them.
#pragma once

#include "bundle/manifest.hpp"
#include "engine/provider.hpp"

#include <string>
#include <utility>
#include <vector>

namespace minit2i {

// Names and values.
using OptionPairs = std::vector<std::pair<std::string, std::string>>;

// Names and values in the form of the C functions, as long as the pairs live.
struct OptionPointers {
    explicit OptionPointers(const OptionPairs &pairs);

    std::vector<const char *> names;
    std::vector<const char *> values;
};

struct ProviderOptions {
    std::string ep; // ONNX Runtime's name
    OptionPairs pairs;
};

// Of the providers that a session of a graph is opened with, the first choice first. records: the
// session may record CUDA graphs.
std::vector<ProviderOptions> provider_options(const ProviderChoice &choice, int num_threads,
                                              const GraphInfo &graph, const Manifest &manifest,
                                              bool records);

} // namespace minit2i
