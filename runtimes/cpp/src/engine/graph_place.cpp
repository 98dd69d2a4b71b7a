#include "engine/graph_place.hpp"

#include <algorithm>

namespace minit2i {
namespace {

std::size_t count_of(const std::vector<std::int64_t> &shape) {
    std::size_t result = 1;
    for (const std::int64_t size : shape) {
        result *= static_cast<std::size_t>(size);
    }
    return result;
}

} // namespace

GraphPlace::GraphPlace(StepGraphs &graphs, const StepInputs &inputs)
    : graphs_(graphs), key_(inputs.key()), state_shape_(inputs.image_shape()),
      row_shape_(inputs.row_shape()), state_bytes_(sizeof(float) * count_of(state_shape_)),
      row_size_(count_of(row_shape_)) {
    for (auto &pair : states_) {
        for (DeviceBlock &block : pair) {
            block = graphs_.memory().allocate(state_bytes_);
        }
    }
    for (std::int64_t count = 1; count <= inputs.most_branches(); ++count) {
        weights_shapes_[count] = inputs.weights_shape(count);
    }
    width_ = row_size_ + static_cast<std::size_t>(kMaxBranches) * count_of(weights_shapes_[1]);
    table_ = graphs_.memory().allocate(kMaxRows * width_ * sizeof(float));
}

void *GraphPlace::state(int pair, int which) const {
    return states_[static_cast<std::size_t>(pair)][static_cast<std::size_t>(which)].get();
}

void GraphPlace::write_state(int pair, int which, const std::vector<float> &values) {
    graphs_.memory().to_device(state(pair, which), values.data(), state_bytes_);
}

std::vector<float> GraphPlace::read_state(int pair, int which) const {
    std::vector<float> values(state_bytes_ / sizeof(float));
    graphs_.memory().to_host(values.data(), state(pair, which), state_bytes_);
    return values;
}

void GraphPlace::write_fixed(std::int64_t branches, const HostArrays &arrays) {
    for (const auto &[name, array] : arrays) {
        Input &input = inputs_[branches][name];
        const auto *bytes = static_cast<const char *>(array.values);
        // Most images have the same lists of places and know no pixel.
        const bool is_steady = name != "tokens";
        if (is_steady && input.block &&
            std::equal(input.sent.begin(), input.sent.end(), bytes, bytes + array.bytes)) {
            continue;
        }
        if (!input.block) {
            input.block = graphs_.memory().allocate(array.bytes);
            input.array = array;
        }
        graphs_.memory().to_device(input.block.get(), bytes, array.bytes);
        if (is_steady) {
            input.sent.assign(bytes, bytes + array.bytes);
        }
    }
}

void GraphPlace::write_table(const StepInputs &inputs, const std::vector<StepRow> &rows) {
    std::vector<float> table(kMaxRows * width_);
    for (std::size_t index = 0; index < std::min(rows.size(), kMaxRows); ++index) {
        const std::vector<float> row = inputs.row_values(rows[index]);
        const std::vector<float> weights = inputs.weight_values(rows[index]);
        float *place = table.data() + index * width_;
        std::copy(row.begin(), row.end(), place);
        std::copy(weights.begin(), weights.end(), place + row_size_);
    }
    graphs_.memory().to_device(table_.get(), table.data(), table.size() * sizeof(float));
}

void GraphPlace::write_row(std::int64_t branches, const std::vector<float> &row) {
    graphs_.memory().to_device(row_block(branches).get(), row.data(), row.size() * sizeof(float));
}

void GraphPlace::write_weights(std::int64_t branches, const std::vector<float> &weights) {
    graphs_.memory().to_device(weights_block(branches).get(), weights.data(),
                               weights.size() * sizeof(float));
}

GraphPlace::Step &GraphPlace::step(int reading, std::int64_t branches) {
    const auto key = std::make_pair(reading, branches);
    const auto known = steps_.find(key);
    if (known != steps_.end()) {
        return known->second;
    }
    Ort::IoBinding binding = bind_states(reading, branches);
    bind(binding, "row", row_shape_, row_block(branches).get());
    bind(binding, "weights", weights_shapes_.at(branches), weights_block(branches).get());
    return steps_.emplace(key, Step{graphs_.new_number(), std::move(binding)}).first->second;
}

GraphPlace::Step &GraphPlace::resident_step(int reading, std::size_t index, std::int64_t branches) {
    const auto key = std::make_tuple(reading, index, branches);
    const auto known = resident_.find(key);
    if (known != resident_.end()) {
        return known->second;
    }
    Ort::IoBinding binding = bind_states(reading, branches);
    float *row = static_cast<float *>(table_.get()) + index * width_;
    bind(binding, "row", row_shape_, row);
    bind(binding, "weights", weights_shapes_.at(branches), row + row_size_);
    return resident_.emplace(key, Step{graphs_.new_number(), std::move(binding)}).first->second;
}

DeviceBlock &GraphPlace::row_block(std::int64_t branches) {
    DeviceBlock &block = rows_[branches];
    if (!block) {
        block = graphs_.memory().allocate(row_size_ * sizeof(float));
    }
    return block;
}

DeviceBlock &GraphPlace::weights_block(std::int64_t branches) {
    DeviceBlock &block = weights_[branches];
    if (!block) {
        block = graphs_.memory().allocate(count_of(weights_shapes_.at(branches)) * sizeof(float));
    }
    return block;
}

void GraphPlace::bind(Ort::IoBinding &binding, const char *name,
                      const std::vector<std::int64_t> &shape, void *address) const {
    HostArray array;
    array.bytes = count_of(shape) * sizeof(float);
    array.shape = shape;
    binding.BindInput(name, array.at(graphs_.memory_info(), address));
}

// All but the row and its weights.
Ort::IoBinding GraphPlace::bind_states(int reading, std::int64_t branches) const {
    Ort::IoBinding binding = graphs_.session().binding();
    bind(binding, "x", state_shape_, state(reading, 0));
    bind(binding, "h", state_shape_, state(reading, 1));
    for (const auto &[name, input] : inputs_.at(branches)) {
        binding.BindInput(name.c_str(), input.array.at(graphs_.memory_info(), input.block.get()));
    }
    HostArray array;
    array.bytes = state_bytes_;
    array.shape = state_shape_;
    binding.BindOutput("x_next", array.at(graphs_.memory_info(), state(1 - reading, 0)));
    binding.BindOutput("h_next", array.at(graphs_.memory_info(), state(1 - reading, 1)));
    return binding;
}

} // namespace minit2i
