// Inputs of the step graph besides the state, for a batch whose images run the same rows.
#pragma once

#include "engine/session.hpp"

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace minit2i {

// Pixels that stay as they are: image float32 [batch, 3, H, W], mask float32 [batch, 1, H, W], 1
// known to 0 open. Both are empty where nothing is known.
struct Known {
    std::vector<float> image;
    std::vector<float> mask;
};

// A row of the table as the step graph takes it: a, b, c (or n), s, clip, rescale; and the weights
// of its branches.
struct StepRow {
    std::array<float, 6> row{};
    std::vector<float> weights;

    std::int64_t branches() const { return static_cast<std::int64_t>(weights.size()); }
};

// An array of the host that is an input, without a copy.
struct HostArray {
    const void *values = nullptr;
    std::size_t bytes = 0;
    std::vector<std::int64_t> shape;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

    // As a tensor that lies at an address of memory.
    Ort::Value at(const Ort::MemoryInfo &memory, void *address) const {
        return Ort::Value::CreateTensor(memory, address, bytes, shape.data(), shape.size(), type);
    }
    Ort::Value on_host() const { return at(cpu_memory(), const_cast<void *>(values)); }
};

using HostArrays = std::map<std::string, HostArray>;

class StepInputs {
public:
    // image_shape is batch, 3, H, W; tokens float32 [branches, batch, adapted, hidden]. per_image:
    // the step graph takes rows and weights of each image, and known pixels (bundle format 2).
    StepInputs(std::vector<std::int64_t> image_shape, Tensor tokens, bool per_image, Known known);

    const std::vector<std::int64_t> &image_shape() const { return image_shape_; }
    std::int64_t most_branches() const { return tokens_.shape[0]; }
    // What stays the same in all rows of so many branches: the first so many take part.
    HostArrays fixed(std::int64_t branches) const;
    // Row and weights in the graph's form.
    std::vector<float> row_values(const StepRow &row) const;
    std::vector<float> weight_values(const StepRow &row) const;
    std::vector<std::int64_t> row_shape() const;
    std::vector<std::int64_t> weights_shape(std::int64_t branches) const;
    // All shapes that the graph's memory depends on.
    std::vector<std::int64_t> key() const;

private:
    std::size_t copies() const {
        return per_image_ ? static_cast<std::size_t>(image_shape_[0]) : 1;
    }

    std::vector<std::int64_t> image_shape_;
    Tensor tokens_;
    bool per_image_;
    Known known_;
    // Place in the batch of each sequence's image, and 0, 1, 2, ..: the sequence of each branch.
    std::vector<std::int64_t> image_;
    std::vector<std::int64_t> sequence_;
};

} // namespace minit2i
