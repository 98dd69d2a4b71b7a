#include "engine/session_options.hpp"

#include "engine/plugin.hpp"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace minit2i {
namespace {

// Options of a provider, in the form of the C functions.
class ProviderOptions {
public:
    explicit ProviderOptions(std::vector<std::pair<const char *, std::string>> options)
        : options_(std::move(options)) {
        for (const auto &[name, value] : options_) {
            names_.push_back(name);
            values_.push_back(value.c_str());
        }
    }
    ProviderOptions(const ProviderOptions &) = delete;
    ProviderOptions &operator=(const ProviderOptions &) = delete;
    const char *const *names() const { return names_.data(); }
    const char *const *values() const { return values_.data(); }
    std::size_t size() const { return options_.size(); }

private:
    std::vector<std::pair<const char *, std::string>> options_;
    std::vector<const char *> names_;
    std::vector<const char *> values_;
};

// As runtimes/onnxruntime/provider_options.py says.
void append_cuda(Ort::SessionOptions &options, const ProviderChoice &choice, bool records) {
    OrtCUDAProviderOptionsV2 *settings = nullptr;
    Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&settings));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2 *)> owner(
        settings, Ort::GetApi().ReleaseCUDAProviderOptions);
    const ProviderOptions values({
        {"device_id", std::to_string(choice.device)},
        // The default doubles the arena at each growth, which can take twice what is needed.
        {"arena_extend_strategy", "kSameAsRequested"},
        // On by default, which makes an fp32 text encoder wrong by 1e-3.
        {"use_tf32", choice.precision == "tf32" ? "1" : "0"},
        {"enable_cuda_graph", records ? "1" : "0"},
    });
    Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptions(settings, values.names(),
                                                              values.values(), values.size()));
    options.AppendExecutionProvider_CUDA_V2(*settings);
}

void append_tensorrt(Ort::SessionOptions &options, const ProviderChoice &choice,
                     const std::string &precision) {
    OrtTensorRTProviderOptionsV2 *settings = nullptr;
    Ort::ThrowOnError(Ort::GetApi().CreateTensorRTProviderOptions(&settings));
    const std::unique_ptr<OrtTensorRTProviderOptionsV2, void (*)(OrtTensorRTProviderOptionsV2 *)>
        owner(settings, Ort::GetApi().ReleaseTensorRTProviderOptions);
    std::vector<std::pair<const char *, std::string>> pairs{
        {"device_id", std::to_string(choice.device)}};
    // Its networks are weakly typed: what is not allowed is computed in float32.
    for (const auto &[name, option] :
         {std::pair{"fp16", "trt_fp16_enable"}, std::pair{"bf16", "trt_bf16_enable"},
          std::pair{"int8", "trt_int8_enable"}}) {
        if (precision == name) {
            pairs.emplace_back(option, "1");
        }
    }
    const ProviderOptions values(std::move(pairs));
    Ort::ThrowOnError(Ort::GetApi().UpdateTensorRTProviderOptions(settings, values.names(),
                                                                  values.values(), values.size()));
    options.AppendExecutionProvider_TensorRT_V2(*settings);
    // What TensorRT leaves goes to CUDA, where it would else go to the CPU.
    append_cuda(options, choice, false);
}

} // namespace

Ort::SessionOptions session_options(const ProviderChoice &choice, int num_threads,
                                    const std::string &precision, bool records) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(num_threads);
    // Spinning threads cost other work on the machine more than they gain this one.
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    // Layers with quantized weights alone are computed as their graph says; the library's default
    // rounds their inputs to 8 bits.
    options.AddConfigEntry("session.qdq_matmulnbits_accuracy_level", "1");
    if (choice.provider.is_plugin()) {
        append_plugin(options, choice, plugin_options(choice, num_threads));
    } else if (choice.provider.name == "cuda") {
        append_cuda(options, choice, records);
    } else if (choice.provider.name == "tensorrt") {
        append_tensorrt(options, choice, precision);
    }
    return options;
}

} // namespace minit2i
