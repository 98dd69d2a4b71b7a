#include "engine/provider_options.hpp"

#include <array>
#include <cstdint>
#include <map>

namespace minit2i {
namespace {

// Least, most usual and largest size of an axis.
using Range = std::array<std::int64_t, 3>;

constexpr Range kOtherAxes{1, 2, 48};

// Of the free axes. TensorRT builds an engine for these sizes once; without them each new size
// builds another one, in the middle of an image.
std::map<std::string, Range> ranges_of(const Manifest &manifest) {
    std::map<std::string, Range> ranges{{"batch", {1, 1, 16}},
                                        {"branches", {1, 2, 3}},
                                        {"n", {1, 2, 48}},
                                        {"sequences", {1, 2, 48}},
                                        {"tokens", {1, 64, 512}}};
    if (manifest.side_bounds) {
        const auto [least, most] = *manifest.side_bounds;
        ranges["height"] = {least, manifest.model.size.height, most};
        ranges["width"] = {least, manifest.model.size.width, most};
    }
    return ranges;
}

Range range_of(const Axis &axis, const std::map<std::string, Range> &ranges) {
    if (axis.name.empty()) {
        return {axis.size, axis.size, axis.size};
    }
    const auto known = ranges.find(axis.name);
    return known == ranges.end() ? kOtherAxes : known->second;
}

// The sizes of all inputs, as "name:1x3x64x64,...".
std::string shapes_of(const GraphInfo &graph, const std::map<std::string, Range> &ranges,
                      std::size_t which) {
    std::string text;
    for (const auto &[name, shape] : graph.inputs) {
        text += (text.empty() ? "" : ",") + name;
        char separator = ':';
        for (const Axis &axis : shape) {
            text += separator + std::to_string(range_of(axis, ranges).at(which));
            separator = 'x';
        }
    }
    return text;
}

void append_profile(OptionPairs &pairs, const std::string &prefix, const GraphInfo &graph,
                    const Manifest &manifest) {
    const std::map<std::string, Range> ranges = ranges_of(manifest);
    std::size_t which = 0;
    for (const char *kind : {"min", "opt", "max"}) {
        pairs.emplace_back(prefix + "_profile_" + kind + "_shapes",
                           shapes_of(graph, ranges, which++));
    }
}

// ep: ONNX Runtime's name of the provider, which may stand behind the chosen one.
ProviderOptions cuda_options(const std::string &ep, const ProviderChoice &choice, bool records) {
    OptionPairs pairs{
        {"device_id", std::to_string(choice.device)},
        // The default doubles the arena at each growth, which can take twice what is needed.
        {"arena_extend_strategy", "kSameAsRequested"},
        // On by default, which makes an fp32 text encoder wrong by 1e-3.
        {"use_tf32", choice.precision == "tf32" ? "1" : "0"},
    };
    if (records) {
        pairs.emplace_back("enable_cuda_graph", "1");
    }
    return {ep, pairs};
}

ProviderOptions tensorrt_options(const ProviderChoice &choice, const GraphInfo &graph,
                                 const Manifest &manifest) {
    OptionPairs pairs{{"device_id", std::to_string(choice.device)}};
    // Its networks are weakly typed: what is not allowed is computed in float32.
    for (const char *name : {"fp16", "bf16", "int8"}) {
        if (graph.precision == name) {
            pairs.emplace_back("trt_" + graph.precision + "_enable", "1");
        }
    }
    append_profile(pairs, "trt", graph, manifest);
    return {choice.provider.ep, pairs};
}

OptionPairs openvino_options(const ProviderChoice &choice, int num_threads) {
    // Unasked, OpenVINO computes in bf16 wherever the processor can.
    const std::string hint = choice.precision == "bf16" ? "bf16" : "f32";
    return {{"load_config", R"({"CPU": {"INFERENCE_PRECISION_HINT": ")" + hint +
                                R"(", "INFERENCE_NUM_THREADS": ")" + std::to_string(num_threads) +
                                R"("}})"}};
}

} // namespace

OptionPointers::OptionPointers(const OptionPairs &pairs) {
    for (const auto &[name, value] : pairs) {
        names.push_back(name.c_str());
        values.push_back(value.c_str());
    }
}

std::vector<ProviderOptions> provider_options(const ProviderChoice &choice, int num_threads,
                                              const GraphInfo &graph, const Manifest &manifest,
                                              bool records) {
    const Provider &provider = choice.provider;
    if (provider.name == "cuda") {
        return {cuda_options(provider.ep, choice, records)};
    }
    if (provider.name == "tensorrt") {
        // What TensorRT leaves goes to CUDA, where it would else go to the CPU.
        return {tensorrt_options(choice, graph, manifest),
                cuda_options(provider.behind, choice, false)};
    }
    OptionPairs pairs;
    if (provider.name == "openvino") {
        pairs = openvino_options(choice, num_threads);
    } else if (provider.name == "tensorrt-rtx") {
        append_profile(pairs, "nv", graph, manifest);
    }
    return {{provider.ep, pairs}};
}

} // namespace minit2i
