// Small ONNX models made without the onnx library, to test an engine with.
// Source: onnx.proto of the ONNX project, for the field numbers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace minit2i {

enum class OnnxType { kFloat32 = 1, kInt8 = 3, kUint8 = 2, kInt32 = 6 };

using OnnxShape = std::vector<std::int64_t>;

// A node with one output; axis is its only attribute, negative for none.
std::string onnx_node(const std::string &op_type, const std::vector<std::string> &inputs,
                      const std::string &output, int axis = -1);
// An input or output of a fixed shape.
std::string onnx_value(const std::string &name, const OnnxShape &shape, OnnxType type);
// An array that is part of the model, as weights are; data are its bytes, little endian.
std::string onnx_constant(const std::string &name, const OnnxShape &shape, OnnxType type,
                          const std::string &data);
// The bytes of a model with one input and one output.
std::string onnx_model(const std::vector<std::string> &nodes, const std::string &input,
                       const std::string &output, const std::vector<std::string> &constants);

} // namespace minit2i
