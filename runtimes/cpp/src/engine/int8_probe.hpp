// Whether this processor computes products of 8-bit numbers right.
#pragma once

#include "engine/ort_api.hpp"

#include <cstdint>
#include <string>

namespace minit2i {

// 64 products of 255 and 127, added up by ONNX Runtime as its INT8 kernels do it here. Processors
// without VNNI add pairs of them in 16 bits, which overflow: then the sum is less than
// kInt8ProbeSum. ONNX Runtime runs this once a process.
std::int32_t int8_probe_sum();

constexpr std::int32_t kInt8ProbeSum = 64 * 255 * 127;

// One line for a bundle with INT8 graphs, or an empty text if the sum is right.
std::string int8_warning(const std::string &bundle, std::int32_t sum);

} // namespace minit2i
