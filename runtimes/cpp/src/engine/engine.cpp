#include "engine/engine.hpp"

#include "common/failure.hpp"
#include "engine/compiled_cache.hpp"
#include "engine/gpu.hpp"
#include "engine/int8_probe.hpp"
#include "engine/placement.hpp"
#include "engine/plugin.hpp"
#include "engine/recorded_trajectory.hpp"
#include "engine/reference_outputs.hpp"
#include "engine/session_options.hpp"
#include "engine/signal_stack.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <system_error>
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

// Another provider would leave the operators that it lacks to the CPU in silence.
void check_engine_fits(const Bundle &bundle, const Provider &provider) {
    const std::string &only = bundle.manifest.only_for;
    if (!only.empty() && only != provider.name) {
        fail_runtime(bundle.path.string() + ": is for provider " + only +
                     " of onnxruntime alone (export --for " + only + "), so " + provider.name +
                     " cannot run it; export the checkpoint again without --for");
    }
}

void check_version(const Provider &provider) {
    const int version = library_version();
    if (provider.is_on_gpu() && version < kMinGpuVersion) {
        fail_runtime("provider " + provider.name + " needs onnxruntime 1." +
                     std::to_string(kMinGpuVersion) + " or later, and 1." +
                     std::to_string(version) + " is loaded; load a newer library");
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
    check_version(choice_.provider);
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

Ort::MemoryInfo Engine::state_memory() const {
    if (choice_.provider.is_on_gpu()) {
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
        open(graph, slot);
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
    if (!choice_.provider.is_on_cpu()) {
        return;
    }
    const std::string text = saturation_warning(bundle_, graph, choice_.provider.name,
                                                [this] { return saturating_forms(choice_); });
    if (!text.empty()) {
        warn_(text);
    }
}

bool Engine::records(const std::string &graph) const {
    return choice_.provider.records() && choice_.cuda_graph != "off" && graph == kStepGraph &&
           !bundle_.manifest.after_switch;
}

// On a GPU provider, what it leaves to the CPU would take the time of an image there.
void Engine::check_placement(const std::string &path, const PlacementLog &log) const {
    const Provider &provider = choice_.provider;
    const std::string strays = log.elsewhere({provider.ep, provider.behind});
    if (!strays.empty()) {
        fail_runtime(path + ": provider " + provider.name + " left " + strays +
                     " to the CPU; choose provider cpu, or a bundle of another precision");
    }
}

// After the options are set, which loads CUDA's library, and before an engine is built for minutes.
void Engine::check_gpu(const std::string &graph, const std::string &precision) const {
    const std::string reason = gpu_lacks(precision, choice_.device);
    if (!reason.empty()) {
        fail_runtime(bundle_.path.string() + ": graph " + graph + " is " + precision + ", " +
                     reason);
    }
}

Ort::Session Engine::cached_session(const std::string &graph, const Ort::SessionOptions &options,
                                    const Warn &warn, std::chrono::seconds wait) {
    return open_packed(
        [this](const std::filesystem::path &file, Ort::SessionOptions &settings) {
            return Ort::Session(env_, file.c_str(), settings);
        },
        bundle_.path / bundle_.graph(graph).path, cache_folder(choice_.cache, bundle_, graph),
        options, warn, wait);
}

void Engine::open_denoiser_ahead() {
    const std::lock_guard<std::mutex> lock(ahead_mutex_);
    if (is_denoiser_begun_) {
        return;
    }
    is_denoiser_begun_ = true;
    {
        Slot &encoder = slots_.at(kTextEncoder);
        const std::lock_guard<std::mutex> encoder_lock(encoder.mutex);
        encoder.session.reset();
    }
    const auto open = [this] {
        Ahead ahead;
        const auto collect = [&ahead](const std::string &text) { ahead.warnings.push_back(text); };
        try {
            // It waits for no other process: closing the model waits for it.
            ahead.session = open_session(kStepGraph, false, collect, std::chrono::seconds(0));
        } catch (const std::exception &) {
            // The caller opens it again.
            return Ahead{};
        }
        return ahead;
    };
    try {
        ahead_ = std::async(std::launch::async, open);
    } catch (const std::system_error &) {
        // Without a thread it is opened where it is used.
    }
}

std::shared_ptr<GraphSession> Engine::opened_ahead() {
    std::future<Ahead> future;
    {
        const std::lock_guard<std::mutex> lock(ahead_mutex_);
        is_denoiser_begun_ = true;
        future = std::move(ahead_);
    }
    if (!future.valid()) {
        return nullptr;
    }
    Ahead ahead = future.get();
    for (const std::string &text : ahead.warnings) {
        warn_(text);
    }
    return ahead.session;
}

std::shared_ptr<GraphSession> Engine::open_session(const std::string &graph, bool records,
                                                   const Warn &warn, std::chrono::seconds wait) {
    const GraphInfo &info = bundle_.graph(graph);
    const std::string path = (bundle_.path / info.path).string();
    const bool on_gpu = choice_.provider.is_on_gpu();
    auto log = std::make_shared<PlacementLog>();
    const SignalStackGuard guard;
    try {
        const std::shared_lock<CudaGate> lock(cuda_gate());
        Ort::SessionOptions options =
            session_options(choice_, num_threads_, info, bundle_.manifest, records);
        // As in Python: a few texts do not pay for copying an encoder's weights.
        const bool packs = !(lean_ && graph == kTextEncoder && choice_.provider.name == "cpu");
        if (!packs) {
            options.AddConfigEntry("session.disable_prepacking", "1");
        }
        if (on_gpu) {
            check_gpu(graph, info.precision);
            log->listen(options);
        }
        Ort::Session session = packs && !choice_.cache.empty()
                                   ? cached_session(graph, options, warn, wait)
                                   : Ort::Session(env_, path.c_str(), options);
        log->close();
        if (on_gpu) {
            check_placement(path, *log);
        }
        return std::make_shared<GraphSession>(graph, std::move(session),
                                              choice_.provider.is_plugin() || records, log);
    } catch (const Ort::Exception &error) {
        fail_engine(path + ": onnxruntime cannot open it on " + choice_.provider.name, error);
    }
}

void Engine::open_recording(Slot &slot) {
    const bool must = choice_.cuda_graph == "on";
    try {
        slot.session = open_session(kStepGraph, true, warn_);
        slot.graphs = std::make_shared<StepGraphs>(slot.session, choice_.device, must, warn_);
    } catch (const Failure &error) {
        slot.graphs.reset();
        if (must) {
            slot.session.reset();
            throw;
        }
        warn_(std::string(error.what()) + "; running without CUDA graphs");
    }
}

void Engine::open(const std::string &graph, Slot &slot) {
    if (records(graph)) {
        open_recording(slot);
    }
    if (graph == kStepGraph && !slot.session) {
        slot.session = opened_ahead();
    }
    if (!slot.session) {
        slot.session = open_session(graph, false, warn_);
    }
    try {
        check_outputs(graph, *slot.session);
    } catch (...) {
        slot.graphs.reset();
        slot.session.reset();
        throw;
    }
}

void Engine::check_outputs(const std::string &graph, GraphSession &session) {
    if (graph == kTextEncoder) {
        check_encoder(session);
    } else if (may_overflow(bundle_.graph(graph).precision)) {
        graph == kTextAdapter ? check_adapter(session) : check_step(session);
    }
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
    Tensor state = reference_state(bundle_);
    StepInputs step_inputs(state.shape, std::move(tokens), bundle_.manifest.can_edit(), {});
    // The next state is then the network's own estimate of the image.
    BoundTrajectory trajectory(std::move(state), {{{0.0F, 1.0F, 0.0F, 0.0F, 0.0F, 0.0F}, {1.0F}}},
                               std::move(step_inputs), state_memory());
    trajectory.step({session, 0, {}, true}, control);
    require_reference_output(bundle_, kStepGraph, patches_of(bundle_, trajectory.x()));
}

std::unique_ptr<Trajectory> Engine::start(Tensor state, Tensor tokens, Known known,
                                          std::vector<StepRow> rows, bool draws_noise) {
    session(kStepGraph);
    StepInputs inputs(state.shape, std::move(tokens), bundle_.manifest.can_edit(),
                      std::move(known));
    if (std::shared_ptr<StepGraphs> graphs = slots_.at(kStepGraph).graphs) {
        return std::make_unique<RecordedTrajectory>(
            std::move(graphs), std::move(state), std::move(rows), std::move(inputs), draws_noise);
    }
    return std::make_unique<BoundTrajectory>(std::move(state), std::move(rows), std::move(inputs),
                                             state_memory());
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
    StoredSequences *const stored = sequences();
    if (stored != nullptr) {
        if (std::optional<std::vector<float>> values = stored->read(ids, mask, n)) {
            // As if the encoder had been opened.
            std::call_once(sequences_warned_,
                           [this] { warn_of_int8(kTextEncoder, bundle_.graph(kTextEncoder)); });
            const auto rows = static_cast<std::int64_t>(n);
            const auto num_tokens = static_cast<std::int64_t>(ids.size() / n);
            return {std::move(*values), {rows, num_tokens, bundle_.manifest.model.txt_input_size}};
        }
    }
    Tensor values = run_encoder(*session(kTextEncoder), ids, mask, n, control);
    if (stored != nullptr) {
        stored->write(ids, mask, n, values.values);
    }
    return values;
}

StoredSequences *Engine::sequences() {
    std::call_once(sequences_once_, [this] {
        if (lean_ && choice_.provider.name == "cpu" && !choice_.cache.empty()) {
            // More threads may add in another order.
            const std::string name = "sequences-" + std::to_string(num_threads_) + "-threads";
            const auto width = static_cast<std::size_t>(bundle_.manifest.model.txt_input_size);
            sequences_ = std::make_unique<StoredSequences>(
                cache_folder(choice_.cache, bundle_, kTextEncoder) / name, width, warn_);
        }
    });
    return sequences_.get();
}

Tensor Engine::adapt(Tensor &context, std::vector<std::int64_t> &mask,
                     std::vector<float> &conditions, RunControl &control) {
    if (lean_ && choice_.provider.name == "cpu") {
        open_denoiser_ahead();
    }
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
