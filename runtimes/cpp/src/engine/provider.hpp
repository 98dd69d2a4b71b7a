// Execution providers: what each is called, needs and computes, as
// runtimes/onnxruntime/providers.py says.
#pragma once

#include <string>
#include <vector>

namespace minit2i {

// ONNX Runtime's names of the providers that are added by functions of their own.
inline constexpr char kCudaEp[] = "CUDAExecutionProvider";
inline constexpr char kTensorrtEp[] = "TensorrtExecutionProvider";

struct Provider {
    std::string name;                  // in minit2i_model_params
    std::string ep;                    // ONNX Runtime's name
    std::vector<std::string> runs;     // precisions of the graphs it has kernels for
    std::vector<std::string> computes; // precisions it may be asked for; most have none
    std::string package; // on PyPI, that holds it as a plugin; empty: part of ONNX Runtime
    std::string who;     // whose devices a plugin finds
    std::string instead; // what to do where it finds none
    std::string behind;  // ONNX Runtime's name of the provider that takes what this one leaves

    bool is_plugin() const { return !package.empty(); }
    bool is_on_cpu() const { return name == "cpu" || name == "openvino"; }
    bool is_on_gpu() const { return name == "cuda" || name == "tensorrt"; }
    bool records() const { return name == "cuda"; }
};

// A provider and what a caller asks of it, all checked but the plugin's file.
struct ProviderChoice {
    const Provider &provider;
    std::string plugin;              // path of the library, or empty
    std::string precision;           // one of provider.computes, or empty: as the graphs say
    int device = 0;                  // index among the provider's
    std::string cuda_graph = "auto"; // "off", "on" or "auto"
    std::string cache = "";          // folder for packed graphs, of provider cpu, or empty
};

// The arguments are minit2i_model_params' fields.
ProviderChoice checked_choice(const char *name, const char *plugin, const char *precision,
                              int device, const char *cuda_graph, const char *cache = nullptr);

// "a, b"
std::string listed(const std::vector<std::string> &names);

} // namespace minit2i
