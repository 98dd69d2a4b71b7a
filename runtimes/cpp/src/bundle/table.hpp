// A compiled solver: rows of scalars, one evaluation of the denoiser each.
// docs/reference/bundle.md.
#pragma once

#include "common/json.hpp"

#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace minit2i {

class Table {
public:
    // Throws JsonError where columns, sizes or values are outside the rules.
    Table(std::string name, std::vector<std::string> columns, std::vector<std::vector<double>> rows,
          Json meta);

    std::size_t size() const { return rows_.size(); }
    const std::string &name() const { return name_; }
    bool is_conditioned() const { return columns_.size() > 9; }
    double value(std::size_t row, std::string_view column) const;

    // What the step graph takes: a, b, c (or n), s, clip, rescale.
    std::array<float, 6> step_row(std::size_t row) const;
    // Weights of the branches, the conditional one first: (g, 1 - g), or 1 alone where g is 1.
    std::vector<float> guidance_weights(std::size_t row, double guidance) const;
    // A copy that guides only rows with first <= t <= last, and says so in its name.
    Table narrowed(double first, double last) const;

    // A copy that starts later: its state there is t of an image and 1 - t of noise. At 1 one row
    // remains, which changes nothing.
    Table started(double start) const;

    // Canonical JSON, byte for byte what the Python side writes.
    std::string to_json() const;

private:
    void check_layout() const;
    void check_row(std::size_t row) const;
    void check_conditions(std::size_t row) const;
    void require(bool good, std::size_t row, const char *rule) const;
    double &cell(std::size_t row, std::string_view column);
    double distance(std::size_t row) const;
    bool guides(std::size_t row, double t) const;
    void forget_history(std::size_t row);
    std::vector<double> line_row(std::size_t row, double start) const;
    std::size_t last_row_before(double start) const;
    bool is_divisible(std::size_t row) const;
    Table from_row(std::size_t first, double start) const;

    std::string name_;
    std::vector<std::string> columns_;
    std::vector<std::vector<double>> rows_;
    Json meta_;
};

// Both throw JsonError; load_table's text starts with the path.
Table read_table(std::string_view text);
Table load_table(const std::filesystem::path &path);

} // namespace minit2i
