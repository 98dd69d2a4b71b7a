#include "engine/onnx_writer.hpp"

namespace minit2i {
namespace {

// Old enough for every engine; the operators in use have not changed since.
constexpr std::uint64_t kIrVersion = 8;
constexpr std::uint64_t kOpset = 18;
constexpr std::uint64_t kIntAttribute = 2;

// Seven bits a byte, the lowest first; the top bit says that more follow.
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

std::string message(unsigned field, const std::string &content) {
    return varint((field << 3) | 2) + varint(content.size()) + content;
}

} // namespace

std::string onnx_node(const std::string &op_type, const std::vector<std::string> &inputs,
                      const std::string &output, int axis) {
    std::string bytes;
    for (const std::string &name : inputs) {
        bytes += message(1, name);
    }
    bytes += message(2, output) + message(4, op_type);
    if (axis >= 0) {
        bytes += message(5, message(1, "axis") + number(3, static_cast<std::uint64_t>(axis)) +
                                number(20, kIntAttribute));
    }
    return bytes;
}

std::string onnx_value(const std::string &name, const OnnxShape &shape, OnnxType type) {
    std::string sizes;
    for (const std::int64_t size : shape) {
        sizes += message(1, number(1, static_cast<std::uint64_t>(size)));
    }
    const std::string tensor = number(1, static_cast<std::uint64_t>(type)) + message(2, sizes);
    return message(1, name) + message(2, message(1, tensor));
}

std::string onnx_constant(const std::string &name, const OnnxShape &shape, OnnxType type,
                          const std::string &data) {
    std::string sizes;
    for (const std::int64_t size : shape) {
        sizes += number(1, static_cast<std::uint64_t>(size));
    }
    return sizes + number(2, static_cast<std::uint64_t>(type)) + message(8, name) +
           message(9, data);
}

std::string onnx_model(const std::vector<std::string> &nodes, const std::string &input,
                       const std::string &output, const std::vector<std::string> &constants) {
    std::string graph;
    for (const std::string &node : nodes) {
        graph += message(1, node);
    }
    for (const std::string &constant : constants) {
        graph += message(5, constant);
    }
    graph += message(11, input) + message(12, output) + message(2, "test");
    return number(1, kIrVersion) + message(7, graph) + message(8, number(2, kOpset));
}

} // namespace minit2i
