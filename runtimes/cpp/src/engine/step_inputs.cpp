#include "engine/step_inputs.hpp"

#include <functional>
#include <numeric>

namespace minit2i {
namespace {

std::size_t product(const std::vector<std::int64_t> &shape) {
    return static_cast<std::size_t>(
        std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
}

// The first values of an array.
HostArray part_of(const std::vector<float> &values, std::vector<std::int64_t> shape) {
    const std::size_t bytes = product(shape) * sizeof(float);
    return {values.data(), bytes, std::move(shape), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT};
}

HostArray part_of(const std::vector<std::int64_t> &values, std::vector<std::int64_t> shape) {
    const std::size_t bytes = product(shape) * sizeof(std::int64_t);
    return {values.data(), bytes, std::move(shape), ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64};
}

} // namespace

StepInputs::StepInputs(std::vector<std::int64_t> image_shape, Tensor tokens, bool per_image,
                       Known known)
    : image_shape_(std::move(image_shape)), tokens_(std::move(tokens)), per_image_(per_image),
      known_(std::move(known)) {
    if (!per_image_) {
        return;
    }
    const std::int64_t batch = image_shape_[0];
    known_.image.resize(product(image_shape_));
    known_.mask.resize(static_cast<std::size_t>(batch * image_shape_[2] * image_shape_[3]));
    for (std::int64_t place = 0; place < tokens_.shape[0] * batch; ++place) {
        image_.push_back(place % batch);
        sequence_.push_back(place);
    }
}

HostArrays StepInputs::fixed(std::int64_t branches) const {
    const std::int64_t batch = image_shape_[0];
    const std::int64_t length = tokens_.shape[2];
    const std::int64_t width = tokens_.shape[3];
    if (!per_image_) {
        return {{"tokens", part_of(tokens_.values, {branches, batch, length, width})}};
    }
    const std::int64_t sequences = branches * batch;
    return {{"tokens", part_of(tokens_.values, {sequences, length, width})},
            {"image", part_of(image_, {sequences})},
            {"sequence", part_of(sequence_, {branches, batch})},
            {"known", part_of(known_.image, image_shape_)},
            {"known_mask", part_of(known_.mask, {batch, 1, image_shape_[2], image_shape_[3]})}};
}

std::vector<float> StepInputs::row_values(const StepRow &row) const {
    std::vector<float> values;
    for (std::size_t copy = 0; copy < copies(); ++copy) {
        values.insert(values.end(), row.row.begin(), row.row.end());
    }
    return values;
}

std::vector<float> StepInputs::weight_values(const StepRow &row) const {
    std::vector<float> values;
    for (const float weight : row.weights) {
        values.insert(values.end(), copies(), weight);
    }
    return values;
}

std::vector<std::int64_t> StepInputs::row_shape() const {
    const std::int64_t columns = 6;
    return per_image_ ? std::vector{image_shape_[0], columns} : std::vector{columns};
}

std::vector<std::int64_t> StepInputs::weights_shape(std::int64_t branches) const {
    return per_image_ ? std::vector{branches, image_shape_[0]} : std::vector{branches};
}

std::vector<std::int64_t> StepInputs::key() const {
    std::vector<std::int64_t> result = image_shape_;
    result.insert(result.end(), tokens_.shape.begin(), tokens_.shape.end());
    return result;
}

} // namespace minit2i
