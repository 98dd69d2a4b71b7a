#include "engine/int8_probe.hpp"

#include "engine/session.hpp"

#include <string>
#include <vector>

namespace minit2i {
namespace {

constexpr std::int64_t kLength = 64;

// An ONNX model is a protobuf message; this is as much of its encoding as one node needs. The
// numbers are those of onnx.proto.
std::string varint(std::uint64_t value) {
    std::string bytes;
    for (; value > 0x7f; value >>= 7) {
        bytes += static_cast<char>((value & 0x7f) | 0x80);
    }
    return bytes + static_cast<char>(value);
}

std::string number(unsigned field, std::uint64_t value) {
    return varint(field << 3) + varint(value);
}

std::string message(unsigned field, const std::string &bytes) {
    return varint((field << 3) | 2) + varint(bytes.size()) + bytes;
}

constexpr std::uint64_t kUint8 = 2;
constexpr std::uint64_t kInt8 = 3;
constexpr std::uint64_t kInt32 = 6;

// A value of shape [1, size].
std::string value_info(const std::string &name, std::uint64_t type, std::int64_t size) {
    const std::string shape =
        message(1, number(1, 1)) + message(1, number(1, static_cast<std::uint64_t>(size)));
    return message(1, name) + message(2, message(1, number(1, type) + message(2, shape)));
}

// sum[1, 1] = a[1, 64] x b[64, 1]. b is a constant, as weights are, so that the kernel is the same.
std::string probe_model() {
    const std::string node =
        message(1, "a") + message(1, "b") + message(2, "sum") + message(4, "MatMulInteger");
    const std::string weights = number(1, kLength) + number(1, 1) + number(2, kInt8) +
                                message(8, "b") +
                                message(9, std::string(static_cast<std::size_t>(kLength), 127));
    const std::string graph = message(1, node) + message(2, "int8_probe") + message(5, weights) +
                              message(11, value_info("a", kUint8, kLength)) +
                              message(12, value_info("sum", kInt32, 1));
    // The oldest versions that have the operator.
    return number(1, 7) + message(7, graph) + message(8, message(1, "") + number(2, 13));
}

std::int32_t run_probe() {
    load_ort_api();
    try {
        const Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "minit2i");
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(1);
        const std::string model = probe_model();
        Ort::Session session(env, model.data(), model.size(), options);
        std::vector<std::uint8_t> a(static_cast<std::size_t>(kLength), 255);
        const Ort::Value input = view(a, {1, kLength});
        const char *input_name = "a";
        const char *output_name = "sum";
        std::vector<Ort::Value> outputs =
            session.Run(Ort::RunOptions{nullptr}, &input_name, &input, 1, &output_name, 1);
        return outputs[0].GetTensorMutableData<std::int32_t>()[0];
    } catch (const Ort::Exception &error) {
        fail_engine("onnxruntime failed in an 8-bit product", error);
    }
}

} // namespace

std::int32_t int8_probe_sum() {
    static const std::int32_t sum = run_probe();
    return sum;
}

std::string int8_warning(const std::string &bundle, std::int32_t sum) {
    if (sum == kInt8ProbeSum) {
        return "";
    }
    return bundle + ": INT8 products are wrong on this processor (" + std::to_string(sum) +
           " in place of " + std::to_string(kInt8ProbeSum) +
           "): it adds pairs of them in 16 bits, which overflow; use a bundle in fp32";
}

} // namespace minit2i
