#include "engine/session.hpp"

#include "common/failure.hpp"
#include "engine/engine_reason.hpp"

namespace minit2i {

Ort::MemoryInfo cpu_memory() {
    return Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
}

void fail_engine(const std::string &where, const Ort::Exception &error) {
    const EngineReason reason = engine_reason(error.what());
    throw Failure(reason.status, where + ": " + reason.text);
}

GraphSession::GraphSession(std::string graph, Ort::Session session, bool serial,
                           std::shared_ptr<const PlacementLog> log)
    : graph_(std::move(graph)), log_(std::move(log)), session_(std::move(session)),
      serial_(serial) {}

GraphSession::~GraphSession() {
    const std::shared_lock<CudaGate> gate(cuda_gate());
    session_ = Ort::Session(nullptr);
}

void GraphSession::run_binding(Ort::IoBinding &binding, const Ort::RunOptions &options) {
    const std::lock_guard<std::mutex> lock(turn_);
    try {
        session_.Run(options, binding);
    } catch (const Ort::Exception &error) {
        fail_engine("onnxruntime failed in " + graph_, error);
    }
}

Tensor GraphSession::run(const std::vector<const char *> &names,
                         const std::vector<Ort::Value> &inputs, RunControl &control) {
    Tensor result;
    run_guarded(
        [&] {
            Ort::AllocatorWithDefaultOptions allocator;
            const Ort::AllocatedStringPtr output = session_.GetOutputNameAllocated(0, allocator);
            const char *output_name = output.get();
            std::vector<Ort::Value> outputs = session_.Run(
                control.options(), names.data(), inputs.data(), inputs.size(), &output_name, 1);
            const auto info = outputs[0].GetTensorTypeAndShapeInfo();
            if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
                fail_runtime(graph_ + ": its output is not float32; re-run minit2i export");
            }
            // The const form of this calls a function that libraries before 1.23 lack.
            const float *data = outputs[0].GetTensorMutableData<float>();
            result = {{data, data + info.GetElementCount()}, info.GetShape()};
        },
        control);
    return result;
}

} // namespace minit2i
