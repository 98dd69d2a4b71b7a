#include "engine/provider.hpp"

#include "common/failure.hpp"
#include "common/json.hpp"

#include <algorithm>

namespace minit2i {
namespace {

const std::vector<Provider> &providers() {
    static const std::vector<std::string> nvidia{"fp32", "bf16", "fp16", "int8", "fp8"};
    static const std::vector<Provider> known{
        {"cpu", "CPUExecutionProvider", {"fp32", "fp16", "int8", "fp8"}, {}, "", "", "", ""},
        {"cuda", kCudaEp, {"fp32", "bf16", "fp16", "int8"}, {"fp32", "tf32"}, "", "", "", ""},
        {"tensorrt", kTensorrtEp, nvidia, {}, "", "", "", kCudaEp},
        {"openvino",
         "OpenVINOExecutionProvider",
         {"fp32", "fp16", "int8"},
         {"fp32", "bf16"},
         "onnxruntime-ep-openvino",
         "Intel",
         "provider cpu runs on any processor",
         ""},
        {"tensorrt-rtx",
         "NvTensorRTRTXExecutionProvider",
         nvidia,
         {},
         "onnxruntime-ep-nv-tensorrt-rtx-cu13",
         "NVIDIA RTX",
         "choose another provider",
         ""},
    };
    return known;
}

const Provider &named_provider(const std::string &name) {
    std::vector<std::string> names;
    for (const Provider &provider : providers()) {
        if (provider.name == name) {
            return provider;
        }
        names.push_back(provider.name);
    }
    fail_usage("provider " + quote(name) + " is unknown; choose one of " + listed(names));
}

void check_plugin(const Provider &provider, const std::string &plugin) {
    if (provider.is_plugin() && plugin.empty()) {
        fail_usage("provider " + provider.name +
                   " is a plugin, but plugin is not set; "
                   "pass the path of the library in package " +
                   provider.package);
    }
    if (!provider.is_plugin() && !plugin.empty()) {
        fail_usage("provider " + provider.name + " is not a plugin, but plugin is " + plugin +
                   "; omit it, or choose the provider that it brings");
    }
}

void check_precision(const Provider &provider, const std::string &precision) {
    const std::vector<std::string> &offers = provider.computes;
    if (std::find(offers.begin(), offers.end(), precision) == offers.end()) {
        fail_usage("provider " + provider.name + " cannot be asked for precision " +
                   quote(precision) + "; it has " +
                   (offers.empty() ? "none: it computes as the graph says" : listed(offers)));
    }
}

void check_device(const Provider &provider, int device) {
    const bool has_one = provider.name == "cpu";
    if (device < 0 || (has_one && device != 0)) {
        fail_usage("device is " + std::to_string(device) + ", but provider " + provider.name +
                   (has_one ? " has only device 0" : " counts devices from 0"));
    }
}

void check_cuda_graph(const ProviderChoice &choice) {
    const std::vector<std::string> modes{"off", "on", "auto"};
    if (std::find(modes.begin(), modes.end(), choice.cuda_graph) == modes.end()) {
        fail_usage("cuda_graph is " + quote(choice.cuda_graph) + "; choose one of " +
                   listed(modes));
    }
    if (choice.cuda_graph == "on" && !choice.provider.records()) {
        fail_usage("provider " + choice.provider.name +
                   " records no CUDA graph; cuda_graph on is for cuda");
    }
}

void check_cache(const ProviderChoice &choice) {
    if (!choice.cache.empty() && choice.provider.name != "cpu") {
        fail_usage("provider " + choice.provider.name + " keeps nothing in a cache here; cache " +
                   choice.cache + " is for cpu");
    }
}

} // namespace

std::string listed(const std::vector<std::string> &names) {
    std::string result;
    for (const std::string &name : names) {
        result += (result.empty() ? "" : ", ") + name;
    }
    return result;
}

ProviderChoice checked_choice(const char *name, const char *plugin, const char *precision,
                              int device, const char *cuda_graph, const char *cache) {
    ProviderChoice choice{
        named_provider(name == nullptr ? "cpu" : name), plugin == nullptr ? "" : plugin,
        precision == nullptr ? "" : precision,          device,
        cuda_graph == nullptr ? "auto" : cuda_graph,    cache == nullptr ? "" : cache};
    if (cache != nullptr && choice.cache.empty()) {
        fail_usage("cache is empty; name a folder, or leave it out");
    }
    check_cuda_graph(choice);
    check_cache(choice);
    if (precision != nullptr) {
        check_precision(choice.provider, choice.precision);
    }
    check_plugin(choice.provider, choice.plugin);
    check_device(choice.provider, device);
    return choice;
}

} // namespace minit2i
