// Tables that start later, by the line that a state follows to an estimate y: x(t) = t y + (1 - t)
// noise. No solver is known here: at a row that reads a history which the shorter table does not
// have, the row takes what the line would have left there. Between two rows a table starts only
// where the line gives what the solver would, and is refused elsewhere.

#include "bundle/table.hpp"
#include "common/failure.hpp"
#include "common/python_json.hpp"

#include <algorithm>
#include <cmath>

namespace minit2i {
namespace {

constexpr double kTimeRounding = 1e-9;
constexpr double kRounding = 1e-12;

} // namespace

double &Table::cell(std::size_t row, std::string_view column) {
    const auto place = std::find(columns_.begin(), columns_.end(), column);
    return rows_[row][static_cast<std::size_t>(place - columns_.begin())];
}

// Of a row's time to 1, not below the table's floor.
double Table::distance(std::size_t row) const {
    const double floor = meta_.contains("a_min") && meta_.at("a_min").is_number()
                             ? meta_.at("a_min").get<double>()
                             : 0.0;
    return std::max(1.0 - value(row, "t"), floor);
}

// Whether the table's interval guides a row at this time; the row itself decides without one.
bool Table::guides(std::size_t row, double t) const {
    if (!meta_.contains("interval") || !meta_.at("interval").is_array() ||
        meta_.at("interval").size() != 2) {
        return value(row, "share") != 0.0;
    }
    const Json &interval = meta_.at("interval");
    return interval[0].get<double>() - kTimeRounding <= t &&
           t <= interval[1].get<double>() + kTimeRounding;
}

// The row before left h = y + s (x there), and x there was y - r (y - x), where r is the ratio of
// the distances to t = 1.
void Table::forget_history(std::size_t row) {
    const double c = value(row, "c");
    if (row == 0 || c == 0.0) {
        return;
    }
    const double s = value(row - 1, "s");
    const double r = distance(row - 1) / distance(row);
    cell(row, "a") += c * s * r;
    cell(row, "b") += c * (1.0 + s - s * r);
    cell(row, "c") = 0.0;
}

// From a time after a row straight on to the next row's.
std::vector<double> Table::line_row(std::size_t row, double start) const {
    Table part = *this;
    const double end = row + 1 < size() ? value(row + 1, "t") : 1.0;
    part.cell(row, "t") = start;
    const double b = (end - start) / part.distance(row);
    part.cell(row, "a") = 1.0 - b;
    part.cell(row, "b") = b;
    for (const char *column : {"c", "n"}) {
        part.cell(row, column) = 0.0;
    }
    if (!guides(row, start)) {
        part.cell(row, "share") = 0.0;
    } else if (value(row, "share") == 0.0) {
        part.cell(row, "share") = 1.0;
    }
    return part.rows_[row];
}

// Of rows at the same time, the last one begins a step.
std::size_t Table::last_row_before(double start) const {
    std::size_t end = 1;
    while (end < size() && value(end, "t") >= value(end - 1, "t")) {
        ++end;
    }
    for (std::size_t row = end; row < size(); ++row) {
        if (value(row, "t") < start - kTimeRounding) {
            fail_usage("table " + name_ + " goes back to t = " + short_float(value(row, "t")) +
                       ", so it cannot start after that; use more strength, or another table");
        }
    }
    std::size_t before = 0;
    for (std::size_t row = 0; row < end; ++row) {
        before = value(row, "t") <= start + kTimeRounding ? row : before;
    }
    return before;
}

// Whether the line to the next row, and the rows from there on, are those of a step that begins at
// any time after this row: the row adds no noise and stays on the line, and no row after it reads
// its history or goes back.
bool Table::is_divisible(std::size_t row) const {
    Table part = *this;
    part.forget_history(row);
    const double sum = part.value(row, "a") + part.value(row, "b");
    const bool is_line = value(row, "n") == 0.0 && std::abs(sum - 1.0) <= kRounding;
    // The last row lands on its estimate but for the floor, which a table need not name.
    const std::size_t last = size() - 1;
    const double landing = (1.0 - value(last, "t")) / distance(last);
    if (!is_line || std::abs(value(last, "b") - landing) > kRounding ||
        (row < last && value(row + 1, "c") != 0.0)) {
        return false;
    }
    for (std::size_t i = row + 1; i < size(); ++i) {
        if (value(i, "t") < value(i - 1, "t")) {
            return false;
        }
    }
    return true;
}

Table Table::from_row(std::size_t first, double start) const {
    Table result = *this;
    result.forget_history(first);
    result.rows_.erase(result.rows_.begin(),
                       result.rows_.begin() + static_cast<std::ptrdiff_t>(first));
    result.name_ += "-from" + short_float(start);
    result.meta_["start"] = start;
    return result;
}

Table Table::started(double start) const {
    if (start == 0.0) {
        return *this;
    }
    if (start == 1.0) {
        Table result = from_row(size() - 1, 1.0);
        for (const char *column : {"b", "c", "n", "s", "share"}) {
            result.cell(0, column) = 0.0;
        }
        result.cell(0, "t") = 1.0;
        result.cell(0, "a") = 1.0;
        result.meta_["start"] = 1;
        return result;
    }
    if (value(0, "t") > start + kTimeRounding) {
        fail_usage("table " + name_ + " starts at t = " + short_float(value(0, "t")) +
                   ", so strength is at most " + short_float(1.0 - value(0, "t")));
    }
    const std::size_t before = last_row_before(start);
    if (std::abs(value(before, "t") - start) <= kTimeRounding) {
        Table result = from_row(before, start);
        result.cell(0, "t") = start;
        return result;
    }
    if (is_conditioned() || !is_divisible(before)) {
        fail_usage("table " + name_ + " cannot start at t = " + short_float(start) +
                   ", between two of its rows; choose a strength at which a row begins, for "
                   "example " +
                   short_float(1.0 - value(before, "t")));
    }
    std::vector<double> line = line_row(before, start);
    if (before + 1 == size()) {
        Table result = from_row(before, start);
        result.rows_[0] = std::move(line);
        return result;
    }
    std::size_t next = before + 1;
    while (next + 1 < size() && value(next + 1, "t") <= value(before + 1, "t") + kTimeRounding) {
        ++next;
    }
    Table result = from_row(next, start);
    result.rows_.insert(result.rows_.begin(), std::move(line));
    return result;
}

} // namespace minit2i
