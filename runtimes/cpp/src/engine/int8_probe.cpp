#include "engine/int8_probe.hpp"

#include "common/failure.hpp"
#include "common/files.hpp"
#include "common/json.hpp"
#include "engine/onnx_writer.hpp"
#include "engine/session.hpp"
#include "engine/session_options.hpp"
#include "engine/signal_stack.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

namespace minit2i {
namespace {

constexpr std::int64_t kRows = 4;
constexpr std::int64_t kInner = 64;
constexpr std::int64_t kColumns = 16;
// 2 * 255 * 64 = 32640 is below 2 ** 15.
constexpr int kSafeWeight = 64;

template <typename T> std::string bytes_of(const std::vector<T> &values) {
    return {reinterpret_cast<const char *>(values.data()), values.size() * sizeof(T)};
}

// Weights are constants, as in a bundle, so that the same kernels run.
std::string weights() {
    return onnx_constant("b", {kInner, kColumns}, OnnxType::kInt8,
                         std::string(static_cast<std::size_t>(kInner * kColumns), 127));
}

// Unsigned inputs whose scale is measured in each run: MatMulInteger.
std::string dynamic_model() {
    return onnx_model({onnx_node("MatMulInteger", {"a", "b"}, "y")},
                      onnx_value("a", {kRows, kInner}, OnnxType::kUint8),
                      onnx_value("y", {kRows, kColumns}, OnnxType::kInt32), {weights()});
}

// Signed inputs of a fixed scale: Q/DQ pairs around MatMul, which ONNX Runtime fuses.
std::string static_model() {
    const std::vector<float> ones(static_cast<std::size_t>(kColumns), 1.0F);
    return onnx_model(
        {onnx_node("QuantizeLinear", {"a", "one", "zero"}, "a8"),
         onnx_node("DequantizeLinear", {"a8", "one", "zero"}, "a32"),
         onnx_node("DequantizeLinear", {"b", "ones"}, "b32", 1),
         onnx_node("MatMul", {"a32", "b32"}, "y")},
        onnx_value("a", {kRows, kInner}, OnnxType::kFloat32),
        onnx_value("y", {kRows, kColumns}, OnnxType::kFloat32),
        {onnx_constant("one", {}, OnnxType::kFloat32, bytes_of(std::vector<float>{1.0F})),
         onnx_constant("zero", {}, OnnxType::kInt8, std::string(1, '\0')), weights(),
         onnx_constant("ones", {kColumns}, OnnxType::kFloat32, bytes_of(ones))});
}

// Whether every output of a model is the expected one for an input that is everywhere a.
template <typename In, typename Out>
bool is_right(const ProviderChoice &choice, const std::string &model, In a, Out expected) {
    const SignalStackGuard guard;
    try {
        const Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "minit2i");
        const Ort::SessionOptions options = session_options(choice, 1, {}, {}, false);
        Ort::Session session(env, model.data(), model.size(), options);
        std::vector<In> values(static_cast<std::size_t>(kRows * kInner), a);
        const Ort::Value input = view(values, {kRows, kInner});
        const char *input_name = "a";
        const char *output_name = "y";
        std::vector<Ort::Value> outputs =
            session.Run(Ort::RunOptions{nullptr}, &input_name, &input, 1, &output_name, 1);
        const Out *sums = outputs[0].GetTensorMutableData<Out>();
        return std::all_of(sums, sums + kRows * kColumns,
                           [expected](Out sum) { return sum == expected; });
    } catch (const Ort::Exception &error) {
        fail_engine("onnxruntime (" + choice.provider.name + ") failed in an 8-bit product", error);
    }
}

SaturatingForms try_forms(const ProviderChoice &asked) {
    load_ort_api();
    // Without a precision, because bf16 would round the sums.
    const ProviderChoice choice{asked.provider, asked.plugin, "", asked.device};
    // Without VNNI ONNX Runtime 1.32 gives 1048544 and 8160.
    return {!is_right<std::uint8_t, std::int32_t>(choice, dynamic_model(), 255, kInner * 255 * 127),
            !is_right<float, float>(choice, static_model(), 127.0F, kInner * 127 * 127)};
}

bool is_large(char weight) { return std::abs(static_cast<signed char>(weight)) > kSafeWeight; }

// Whether an INT8 tensor of a safetensors file has a weight that can saturate.
bool has_large_weights(const std::filesystem::path &path) {
    std::string bytes;
    std::uint64_t length = 0;
    if (!read_file(path, bytes) || bytes.size() < sizeof length) {
        fail_bundle(path.string() + ": not a weights file");
    }
    std::memcpy(&length, bytes.data(), sizeof length);
    try {
        const std::string_view view = bytes;
        const Json header = parse_json(view.substr(sizeof length, length));
        const std::string_view data = view.substr(sizeof length + length);
        for (const auto &item : header.items()) {
            if (member(item.value(), "dtype") == "I8") {
                const auto begin = item.value().at("data_offsets").at(0).get<std::size_t>();
                const auto end = item.value().at("data_offsets").at(1).get<std::size_t>();
                const std::string_view tensor = data.substr(begin, end - begin);
                if (std::any_of(tensor.begin(), tensor.end(), is_large)) {
                    return true;
                }
            }
        }
        return false;
    } catch (const std::exception &) {
        fail_bundle(path.string() + ": not a weights file");
    }
}

} // namespace

SaturatingForms saturating_forms(const ProviderChoice &choice) {
    static std::mutex mutex;
    static std::map<std::string, SaturatingForms> tried;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto known = tried.find(choice.provider.name);
    if (known != tried.end()) {
        return known->second;
    }
    return tried[choice.provider.name] = try_forms(choice);
}

std::string saturation_warning(const Bundle &bundle, const std::string &graph,
                               const std::string &provider,
                               const std::function<SaturatingForms()> &forms) {
    const GraphInfo &info = bundle.graph(graph);
    const auto scheme = bundle.manifest.schemes.find(graph);
    const std::string words = scheme == bundle.manifest.schemes.end() ? "" : scheme->second;
    const bool is_dynamic = words.find("dynamic") != std::string::npos;
    const bool is_pair_safe = words.find("pair-safe") != std::string::npos;
    if (info.precision != "int8" || is_pair_safe) {
        return "";
    }
    const SaturatingForms wrong = forms();
    const bool saturates = is_dynamic ? wrong.is_dynamic_wrong : wrong.is_static_wrong;
    if (!saturates || !has_large_weights(bundle.data_path(info))) {
        return "";
    }
    return bundle.path.string() + ": 8-bit products saturate in onnxruntime (" + provider +
           ") on this processor, which has no VNNI, so its values lose precision; run the bundle "
           "that this one was made from, or quantize that by a scheme other than int8-text with "
           "this version of minit2i";
}

} // namespace minit2i
