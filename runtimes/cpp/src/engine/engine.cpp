#include "engine/engine.hpp"

#include "common/failure.hpp"
#include "engine/plugin.hpp"
#include "engine/signal_stack.hpp"

#include <sched.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <thread>

namespace minit2i {
namespace {

Ort::MemoryInfo cpu_memory() {
    return Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
}

template <typename T>
Ort::Value view(std::vector<T> &values, const std::vector<std::int64_t> &shape) {
    return Ort::Value::CreateTensor<T>(cpu_memory(), values.data(), values.size(), shape.data(),
                                       shape.size());
}

int usable_cores() {
    cpu_set_t cores;
    // Containers and taskset narrow what the process may use.
    if (::sched_getaffinity(0, sizeof cores, &cores) == 0) {
        return CPU_COUNT(&cores);
    }
    return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

void append_cuda(Ort::SessionOptions &options) {
    OrtCUDAProviderOptionsV2 *settings = nullptr;
    Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&settings));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2 *)> owner(
        settings, Ort::GetApi().ReleaseCUDAProviderOptions);
    options.AppendExecutionProvider_CUDA_V2(*settings);
}

void append_tensorrt(Ort::SessionOptions &options) {
    OrtTensorRTProviderOptionsV2 *settings = nullptr;
    Ort::ThrowOnError(Ort::GetApi().CreateTensorRTProviderOptions(&settings));
    const std::unique_ptr<OrtTensorRTProviderOptionsV2, void (*)(OrtTensorRTProviderOptionsV2 *)>
        owner(settings, Ort::GetApi().ReleaseTensorRTProviderOptions);
    options.AppendExecutionProvider_TensorRT_V2(*settings);
}

// Another provider would leave the operators that it lacks to the CPU in silence.
void check_engine_fits(const Bundle &bundle, const Provider &provider) {
    const std::string &only = bundle.manifest.only_for;
    if (!only.empty() && only != provider.name) {
        fail_runtime(bundle.path.string() + ": is for provider " + only +
                     " of onnxruntime alone (export --for " + only + "), so " + provider.name +
                     " cannot run it; export the checkpoint again without --for");
    }
}

// What it has no kernels for would be left to the CPU in silence, or fail without naming the cause.
void check_kernels(const Bundle &bundle, const std::string &graph, const std::string &precision,
                   const Provider &provider) {
    if (std::find(provider.runs.begin(), provider.runs.end(), precision) == provider.runs.end()) {
        fail_runtime(bundle.path.string() + ": graph " + graph + " is " + precision +
                     ", which provider " + provider.name + " has no kernels for; it runs " +
                     listed(provider.runs));
    }
}

} // namespace

void fail_engine(const std::string &where, const Ort::Exception &error) {
    const std::string text = error.what();
    // ONNX Runtime has no status of its own for this.
    for (const char *sign : {"bad_alloc", "Failed to allocate memory"}) {
        if (text.find(sign) != std::string::npos) {
            throw Failure(MINIT2I_ERROR_MEMORY,
                          where + ": out of memory; free some, or use a smaller batch");
        }
    }
    fail_runtime(where + ": " + text.substr(0, text.find('\n')));
}

Engine::Engine(const Bundle &bundle, ProviderChoice choice, int num_threads, bool lean)
    : bundle_(bundle), choice_(std::move(choice)), lean_(lean),
      num_threads_(num_threads > 0 ? num_threads : usable_cores()),
      // Failures come back to the caller; nothing goes to stderr beside them.
      env_(ORT_LOGGING_LEVEL_FATAL, "minit2i") {
    check_engine_fits(bundle_, choice_.provider);
    if (choice_.provider.is_plugin()) {
        load_plugin(choice_.provider, choice_.plugin);
    }
}

Ort::SessionOptions Engine::options() const {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(num_threads_);
    // Spinning threads cost other work on the machine more than they gain this one.
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    if (choice_.provider.is_plugin()) {
        append_plugin(options, choice_.provider, plugin_options(choice_, num_threads_));
    } else if (choice_.provider.name == "cuda") {
        append_cuda(options);
    } else if (choice_.provider.name == "tensorrt") {
        append_tensorrt(options);
    }
    return options;
}

Ort::Session &Engine::session(const std::string &graph) {
    const auto found = sessions_.find(graph);
    if (found != sessions_.end()) {
        return found->second;
    }
    if (lean_ && (graph == kStepGraph || graph == kLateGraph)) {
        sessions_.erase("text_encoder");
    }
    const GraphInfo &info = bundle_.graph(graph);
    check_kernels(bundle_, graph, info.precision, choice_.provider);
    const std::string path = (bundle_.path / info.path).string();
    const KeptSignalStack kept;
    try {
        return sessions_.emplace(graph, Ort::Session(env_, path.c_str(), options())).first->second;
    } catch (const Ort::Exception &error) {
        fail_engine(path + ": onnxruntime cannot open it on " + choice_.provider.name, error);
    }
}

Tensor Engine::run(const std::string &graph, const std::vector<const char *> &names,
                   const std::vector<Ort::Value> &inputs) {
    Ort::Session &opened = session(graph);
    try {
        Ort::AllocatorWithDefaultOptions allocator;
        const Ort::AllocatedStringPtr output = opened.GetOutputNameAllocated(0, allocator);
        const char *output_name = output.get();
        const std::vector<Ort::Value> results =
            opened.Run(Ort::RunOptions{nullptr}, names.data(), inputs.data(), inputs.size(),
                       &output_name, 1);
        const auto info = results[0].GetTensorTypeAndShapeInfo();
        if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
            fail_runtime(graph + ": its output is not float32; re-run minit2i export");
        }
        const float *data = results[0].GetTensorData<float>();
        return {{data, data + info.GetElementCount()}, info.GetShape()};
    } catch (const Ort::Exception &error) {
        fail_engine("onnxruntime failed in " + graph, error);
    }
}

Tensor Engine::encode(std::vector<std::int64_t> &ids, std::vector<std::int64_t> &mask,
                      std::size_t n) {
    const std::vector<std::int64_t> shape{static_cast<std::int64_t>(n),
                                          static_cast<std::int64_t>(ids.size() / n)};
    std::vector<Ort::Value> inputs;
    inputs.push_back(view(ids, shape));
    inputs.push_back(view(mask, shape));
    Tensor values = run("text_encoder", {"input_ids", "attention_mask"}, inputs);
    if (values.shape.size() != 3 || values.shape[0] != shape[0] || values.shape[1] != shape[1] ||
        values.shape[2] != bundle_.manifest.model.txt_input_size) {
        fail_runtime("text_encoder: its output has another shape than the manifest says; re-run "
                     "minit2i export");
    }
    return values;
}

Tensor Engine::adapt(Tensor &context, std::vector<std::int64_t> &mask,
                     std::vector<float> &conditions) {
    const std::int64_t n = context.shape[0];
    std::vector<Ort::Value> inputs;
    std::vector<const char *> names{"context", "mask"};
    inputs.push_back(view(context.values, context.shape));
    inputs.push_back(view(mask, {n, context.shape[1]}));
    if (!conditions.empty()) {
        names.push_back("conditions");
        inputs.push_back(view(conditions, {n, 4}));
    }
    Tensor tokens = run("text_adapter", names, inputs);
    if (tokens.shape.size() != 3 || tokens.shape[0] != n) {
        fail_runtime("text_adapter: its output is not [n, tokens, hidden]; re-run minit2i export");
    }
    return tokens;
}

Trajectory::Trajectory(Tensor start, Tensor tokens)
    : memory_(cpu_memory()), shape_(std::move(start.shape)), tokens_(std::move(tokens)) {
    const std::size_t count = start.values.size();
    buffers_[0] = {std::move(start.values), std::vector<float>(count)};
    buffers_[1] = {std::vector<float>(count), std::vector<float>(count)};
}

void Trajectory::step(Ort::Session &session, std::array<float, 6> row,
                      std::vector<float> weights, const std::vector<float> &noise) {
    auto &now = buffers_[now_];
    auto &next = buffers_[1 - now_];
    if (!noise.empty()) {
        now[1] = noise;
    }
    const auto branches = static_cast<std::int64_t>(weights.size());
    std::vector<std::int64_t> token_shape = tokens_.shape;
    token_shape[0] = branches;
    const std::int64_t count = std::accumulate(token_shape.begin(), token_shape.end(),
                                               std::int64_t{1}, std::multiplies<>());
    const std::int64_t row_size = 6;
    try {
        Ort::IoBinding binding(session);
        binding.BindInput("x", view(now[0], shape_));
        binding.BindInput("h", view(now[1], shape_));
        binding.BindInput("tokens", Ort::Value::CreateTensor<float>(
                                        memory_, tokens_.values.data(),
                                        static_cast<std::size_t>(count), token_shape.data(),
                                        token_shape.size()));
        binding.BindInput("weights", view(weights, {branches}));
        binding.BindInput("row", Ort::Value::CreateTensor<float>(memory_, row.data(), row.size(),
                                                                 &row_size, 1));
        binding.BindOutput("x_next", view(next[0], shape_));
        binding.BindOutput("h_next", view(next[1], shape_));
        session.Run(Ort::RunOptions{nullptr}, binding);
    } catch (const Ort::Exception &error) {
        fail_engine("onnxruntime failed in transformer", error);
    }
    now_ = 1 - now_;
}

} // namespace minit2i
