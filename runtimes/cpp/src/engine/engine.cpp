#include "engine/engine.hpp"

#include "common/failure.hpp"
#include "engine/int8_probe.hpp"
#include "engine/plugin.hpp"
#include "engine/reference_outputs.hpp"
#include "engine/signal_stack.hpp"
#include "engine/trajectory.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <thread>

namespace minit2i {
namespace {

int usable_cores() {
    cpu_set_t cores;
    // Containers and taskset narrow what the process may use.
    if (::sched_getaffinity(0, sizeof cores, &cores) == 0) {
        return CPU_COUNT(&cores);
    }
    return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

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
void append_cuda(Ort::SessionOptions &options, const ProviderChoice &choice) {
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
        // Without it, norms of a residual sum add up in half precision.
        {"enable_skip_layer_norm_strict_mode", "1"},
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
    append_cuda(options, choice);
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

Engine::Engine(const Bundle &bundle, ProviderChoice choice, int num_threads, bool lean,
               const Warn &warn)
    : bundle_(bundle), choice_(std::move(choice)), lean_(lean), warn_(warn),
      num_threads_(num_threads > 0 ? num_threads : usable_cores()), ort_api_(load_ort_api()),
      process_id_(::getpid()),
      // Failures come back to the caller; nothing goes to stderr beside them.
      env_(ORT_LOGGING_LEVEL_FATAL, "minit2i") {
    check_engine_fits(bundle_, choice_.provider);
    if (choice_.provider.is_plugin()) {
        load_plugin(choice_, ort_api_);
    }
    for (const auto &[name, graph] : bundle_.manifest.graphs) {
        slots_[name];
    }
    if (bundle_.manifest.after_switch) {
        slots_[kAfterSwitchGraph];
    }
}

void Engine::check_process() const {
    if (process_id_ != ::getpid()) {
        fail_usage("the model was opened by another process, which then forked; open it after "
                   "the fork");
    }
}

Ort::SessionOptions Engine::options(const std::string &graph) const {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(num_threads_);
    // Spinning threads cost other work on the machine more than they gain this one.
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    // Layers with quantized weights alone are computed as their graph says; the library's default
    // rounds their inputs to 8 bits.
    options.AddConfigEntry("session.qdq_matmulnbits_accuracy_level", "1");
    if (choice_.provider.is_plugin()) {
        append_plugin(options, choice_, plugin_options(choice_, num_threads_));
    } else if (choice_.provider.name == "cuda") {
        append_cuda(options, choice_);
    } else if (choice_.provider.name == "tensorrt") {
        append_tensorrt(options, choice_, bundle_.graph(graph).precision);
    }
    return options;
}

Ort::MemoryInfo Engine::state_memory() const {
    if (choice_.provider.name == "cuda" || choice_.provider.name == "tensorrt") {
        return {"Cuda", OrtDeviceAllocator, choice_.device, OrtMemTypeDefault};
    }
    return cpu_memory();
}

std::shared_ptr<GraphSession> Engine::session(const std::string &graph) {
    const GraphInfo &info = bundle_.graph(graph);
    Slot &slot = slots_.at(graph);
    const std::lock_guard<std::mutex> lock(slot.mutex);
    if (!slot.session) {
        check_kernels(bundle_, graph, info.precision, choice_.provider);
        if (lean_ && (graph == kStepGraph || graph == kAfterSwitchGraph)) {
            Slot &encoder = slots_.at(kTextEncoder);
            const std::lock_guard<std::mutex> encoder_lock(encoder.mutex);
            encoder.session.reset();
        }
        warn_of_int8(graph, info);
        slot.session = open(graph);
    }
    return slot.session;
}

void Engine::warn_of_int8(const std::string &graph, const GraphInfo &info) const {
    if (info.precision == "int8" && choice_.provider.name == "cuda") {
        warn_(bundle_.path.string() + ": " + graph +
              " is int8, which provider cuda runs slower than the bundle it was made from: it "
              "rounds in kernels of their own and multiplies in the source's precision; run the "
              "source bundle, or provider tensorrt");
    }
    if (info.precision != "int8" || choice_.provider.name != "cpu") {
        return;
    }
    const std::string text = saturation_warning(bundle_, graph, saturating_forms());
    if (!text.empty()) {
        warn_(text);
    }
}

std::shared_ptr<GraphSession> Engine::open(const std::string &graph) {
    const std::string path = (bundle_.path / bundle_.graph(graph).path).string();
    const SignalStackGuard guard;
    std::shared_ptr<GraphSession> opened;
    try {
        opened = std::make_shared<GraphSession>(
            graph, Ort::Session(env_, path.c_str(), options(graph)), choice_.provider.is_plugin());
    } catch (const Ort::Exception &error) {
        fail_engine(path + ": onnxruntime cannot open it on " + choice_.provider.name, error);
    }
    if (graph == kTextEncoder) {
        check_encoder(*opened);
    } else if (may_overflow(bundle_.graph(graph).precision)) {
        graph == kTextAdapter ? check_adapter(*opened) : check_step(*opened);
    }
    return opened;
}

// Half precision overflows in T5, and all that follows would be NaN.
void Engine::check_encoder(GraphSession &session) {
    std::vector<std::int64_t> ids = reference_ids();
    std::vector<std::int64_t> mask(ids.size(), 1);
    RunControl control;
    require_reference_output(bundle_, kTextEncoder, run_encoder(session, ids, mask, 1, control));
}

void Engine::check_adapter(GraphSession &session) {
    AdapterInputs inputs = reference_adapter_inputs(bundle_);
    RunControl control;
    require_reference_output(
        bundle_, kTextAdapter,
        run_adapter(session, inputs.context, inputs.mask, inputs.conditions, control));
}

// A step graph before or after the switch; both stand for the same network.
void Engine::check_step(GraphSession &session) {
    AdapterInputs inputs = reference_adapter_inputs(bundle_);
    RunControl control;
    Tensor tokens = adapt(inputs.context, inputs.mask, inputs.conditions, control);
    tokens.shape.insert(tokens.shape.begin(), 1);
    Trajectory trajectory(reference_state(bundle_), std::move(tokens), bundle_.manifest.can_edit(),
                          state_memory());
    // The next state is then the network's own estimate of the image.
    trajectory.step(session, {0.0F, 1.0F, 0.0F, 0.0F, 0.0F, 0.0F}, {1.0F}, {}, control, true);
    require_reference_output(bundle_, kStepGraph, patches_of(bundle_, trajectory.x()));
}

Tensor Engine::run_encoder(GraphSession &session, std::vector<std::int64_t> &ids,
                           std::vector<std::int64_t> &mask, std::size_t n, RunControl &control) {
    const std::vector<std::int64_t> shape{static_cast<std::int64_t>(n),
                                          static_cast<std::int64_t>(ids.size() / n)};
    std::vector<Ort::Value> inputs;
    inputs.push_back(view(ids, shape));
    inputs.push_back(view(mask, shape));
    Tensor values = session.run({"input_ids", "attention_mask"}, inputs, control);
    if (values.shape.size() != 3 || values.shape[0] != shape[0] || values.shape[1] != shape[1] ||
        values.shape[2] != bundle_.manifest.model.txt_input_size) {
        fail_runtime("text_encoder: its output has another shape than the manifest says; re-run "
                     "minit2i export");
    }
    const std::size_t width = values.values.size() / mask.size();
    for (std::size_t at = 0; at < values.values.size(); ++at) {
        // What a network makes of padding means nothing.
        if (!std::isfinite(values.values[at]) && mask[at / width] != 0) {
            fail_runtime(bundle_.path.string() +
                         ": the text encoder gives NaN or infinity on onnxruntime; its numbers "
                         "overflow, so re-run minit2i export, which keeps it fp32, or choose an "
                         "engine that computes in fp32");
        }
    }
    return values;
}

Tensor Engine::encode(std::vector<std::int64_t> &ids, std::vector<std::int64_t> &mask,
                      std::size_t n, RunControl &control) {
    return run_encoder(*session(kTextEncoder), ids, mask, n, control);
}

Tensor Engine::adapt(Tensor &context, std::vector<std::int64_t> &mask,
                     std::vector<float> &conditions, RunControl &control) {
    return run_adapter(*session(kTextAdapter), context, mask, conditions, control);
}

Tensor Engine::run_adapter(GraphSession &session, Tensor &context, std::vector<std::int64_t> &mask,
                           std::vector<float> &conditions, RunControl &control) {
    const std::int64_t n = context.shape[0];
    std::vector<Ort::Value> inputs;
    std::vector<const char *> names{"context", "mask"};
    inputs.push_back(view(context.values, context.shape));
    inputs.push_back(view(mask, {n, context.shape[1]}));
    if (!conditions.empty()) {
        names.push_back("conditions");
        inputs.push_back(view(conditions, {n, 4}));
    }
    Tensor tokens = session.run(names, inputs, control);
    if (tokens.shape.size() != 3 || tokens.shape[0] != n) {
        fail_runtime("text_adapter: its output is not [n, tokens, hidden]; re-run minit2i export");
    }
    return tokens;
}

} // namespace minit2i
