#include "engine/session_options.hpp"

#include "engine/plugin.hpp"
#include "engine/provider_options.hpp"

#include <memory>

namespace minit2i {
namespace {

void append_cuda(Ort::SessionOptions &options, const OptionPairs &pairs) {
    OrtCUDAProviderOptionsV2 *settings = nullptr;
    Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&settings));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2 *)> owner(
        settings, Ort::GetApi().ReleaseCUDAProviderOptions);
    const OptionPointers all(pairs);
    Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptions(settings, all.names.data(),
                                                              all.values.data(), pairs.size()));
    options.AppendExecutionProvider_CUDA_V2(*settings);
}

void append_tensorrt(Ort::SessionOptions &options, const OptionPairs &pairs) {
    OrtTensorRTProviderOptionsV2 *settings = nullptr;
    Ort::ThrowOnError(Ort::GetApi().CreateTensorRTProviderOptions(&settings));
    const std::unique_ptr<OrtTensorRTProviderOptionsV2, void (*)(OrtTensorRTProviderOptionsV2 *)>
        owner(settings, Ort::GetApi().ReleaseTensorRTProviderOptions);
    const OptionPointers all(pairs);
    Ort::ThrowOnError(Ort::GetApi().UpdateTensorRTProviderOptions(settings, all.names.data(),
                                                                  all.values.data(), pairs.size()));
    options.AppendExecutionProvider_TensorRT_V2(*settings);
}

} // namespace

Ort::SessionOptions session_options(const ProviderChoice &choice, int num_threads,
                                    const GraphInfo &graph, const Manifest &manifest,
                                    bool records) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(num_threads);
    // Spinning threads cost other work on the machine more than they gain this one.
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    // Layers with quantized weights alone are computed as their graph says; the library's default
    // rounds their inputs to 8 bits.
    options.AddConfigEntry("session.qdq_matmulnbits_accuracy_level", "1");
    for (const auto &[ep, pairs] :
         provider_options(choice, num_threads, graph, manifest, records)) {
        if (choice.provider.is_plugin()) {
            append_plugin(options, choice, pairs);
        } else if (ep == kCudaEp) {
            append_cuda(options, pairs);
        } else if (ep == kTensorrtEp) {
            append_tensorrt(options, pairs);
        }
    }
    return options;
}

} // namespace minit2i
