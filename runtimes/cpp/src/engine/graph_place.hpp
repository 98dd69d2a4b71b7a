// Memory on a GPU for trajectories of one shape, and the graphs recorded on it.
#pragma once

#include "engine/step_graphs.hpp"
#include "engine/step_inputs.hpp"

#include <array>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace minit2i {

// Rows of a table that stay on the device, each with a graph of its own, and their branches; a
// table with more of either runs row by row.
constexpr std::size_t kMaxRows = 128;
constexpr std::int64_t kMaxBranches = 4;

class GraphPlace {
public:
    // A binding of all that a step reads and writes, and the number of its graph.
    struct Step {
        int number;
        Ort::IoBinding binding;
    };

    GraphPlace(StepGraphs &graphs, const StepInputs &inputs);

    const std::vector<std::int64_t> &key() const { return key_; }
    // pair is 0 or 1; which is 0 for x, 1 for h.
    void write_state(int pair, int which, const std::vector<float> &values);
    std::vector<float> read_state(int pair, int which) const;
    void write_fixed(std::int64_t branches, const HostArrays &arrays);
    // Rows and weights of a table, row by row.
    void write_table(const StepInputs &inputs, const std::vector<StepRow> &rows);
    // Row and weights of the next step, for steps whose row has no place of its own.
    void write_row(std::int64_t branches, const std::vector<float> &row);
    void write_weights(std::int64_t branches, const std::vector<float> &weights);

    // From one pair to the other, by the row that was written.
    Step &step(int reading, std::int64_t branches);
    // By a row of the table.
    Step &resident_step(int reading, std::size_t index, std::int64_t branches);

private:
    struct Input {
        DeviceBlock block;
        HostArray array; // its shape and type; its values are gone
        std::vector<char> sent;
    };

    void *state(int pair, int which) const;
    DeviceBlock &row_block(std::int64_t branches);
    DeviceBlock &weights_block(std::int64_t branches);
    void bind(Ort::IoBinding &binding, const char *name, const std::vector<std::int64_t> &shape,
              void *address) const;
    Ort::IoBinding bind_states(int reading, std::int64_t branches) const;

    StepGraphs &graphs_;
    std::vector<std::int64_t> key_;
    std::vector<std::int64_t> state_shape_;
    std::vector<std::int64_t> row_shape_;
    std::map<std::int64_t, std::vector<std::int64_t>> weights_shapes_;
    std::size_t state_bytes_;
    std::size_t row_size_;
    std::size_t width_; // floats of a row and its weights in the table
    // Read one pair, write the other.
    std::array<std::array<DeviceBlock, 2>, 2> states_;
    // By the number of branches.
    std::map<std::int64_t, std::map<std::string, Input>> inputs_;
    std::map<std::int64_t, DeviceBlock> rows_;
    std::map<std::int64_t, DeviceBlock> weights_;
    DeviceBlock table_;
    std::map<std::pair<int, std::int64_t>, Step> steps_;
    std::map<std::tuple<int, std::size_t, std::int64_t>, Step> resident_;
};

} // namespace minit2i
