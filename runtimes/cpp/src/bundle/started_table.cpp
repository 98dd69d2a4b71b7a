// Tables that start later: the solver that a table names, compiled again for the grid's points
// after the start (minit2i_deploy/solvers/start.py).

#include "bundle/solver_rows.hpp"
#include "bundle/table.hpp"
#include "common/failure.hpp"
#include "common/python_json.hpp"

#include <algorithm>
#include <cmath>

namespace minit2i {
namespace {

constexpr double kTimeRounding = 1e-9;
// Of a student's equal steps, as the Python side compares them.
constexpr double kTimeRatio = 1e-5;
constexpr double kReferenceFloor = 0.05;
constexpr long kMaxSteps = 10000;
constexpr long kMaxRepeats = 1000;

// How a table was compiled, of its meta.
struct Origin {
    std::string solver;
    long steps = 0;
    double shift = 0.0;
    double floor = 0.0;
    double first = 0.0;
    double last = 1.0;
    Repeats repeats;
};

// A field that may be missing or null.
const Json *field(const Json &meta, const char *name) {
    const auto found = meta.find(name);
    return found == meta.end() || found->is_null() ? nullptr : &*found;
}

void read_pair(const Json &meta, const char *name, double &first, double &last) {
    if (const Json *pair = field(meta, name)) {
        const Json &items = expect_list(*pair, name);
        if (items.size() != 2) {
            throw JsonError(std::string(name) + " must be two numbers");
        }
        first = expect_number(items[0], name);
        last = expect_number(items[1], name);
        if (!(0.0 <= first && first <= last && last <= 1.0)) {
            throw JsonError(std::string(name) + " must satisfy 0 <= start <= end <= 1");
        }
    }
}

long read_count(const Json &value, const char *name, long most) {
    const std::int64_t count = expect_integer(value, name);
    if (count < 1 || count > most) {
        throw JsonError(std::string(name) + " must be 1 to " + std::to_string(most));
    }
    return static_cast<long>(count);
}

double read_positive(const Json &value, const char *name) {
    const double number = expect_number(value, name);
    if (!(number > 0.0)) {
        throw JsonError(std::string(name) + " must be above 0");
    }
    return number;
}

Repeats read_repeats(const Json &meta) {
    Repeats repeats;
    if (meta.contains("repeats")) {
        repeats.count = read_count(meta.at("repeats"), "repeats", kMaxRepeats);
        if (const Json *jump = field(meta, "jump")) {
            repeats.jump = read_count(*jump, "jump", kMaxSteps);
        }
        read_pair(meta, "repeat_interval", repeats.first, repeats.last);
        if (const Json *scale = field(meta, "noise_scale")) {
            repeats.noise_scale = read_positive(*scale, "noise_scale");
        }
    }
    return repeats;
}

Origin read_origin(const Json &meta) {
    Origin origin;
    origin.solver = expect_text(meta.at("solver"), "solver");
    origin.steps = read_count(meta.at("steps"), "steps", kMaxSteps);
    if (const Json *shift = field(meta, "shift")) {
        origin.shift = read_positive(*shift, "shift");
    }
    const Json *floor = field(meta, "a_min");
    if (origin.solver != "dpmpp2m") {
        origin.floor = floor == nullptr ? kReferenceFloor : read_positive(*floor, "a_min");
    }
    read_pair(meta, "interval", origin.first, origin.last);
    origin.repeats = read_repeats(meta);
    return origin;
}

// The grid's points after a start, and the start itself.
Points points_from(const Origin &origin, double start, bool is_conditioned) {
    const Points grid = solver_grid(origin.solver, origin.steps, origin.shift);
    const auto is_near = [start](double t) {
        return std::abs(t - start) <= kTimeRounding + kTimeRatio * start;
    };
    if (is_conditioned && std::none_of(grid.begin(), grid.end(), is_near)) {
        fail_usage("start is " + short_float(start) + ", but the steps of solver " + origin.solver +
                   " are equal; choose a strength at which one begins: 1 - k / " +
                   std::to_string(origin.steps));
    }
    Points points{start};
    std::copy_if(grid.begin(), grid.end(), std::back_inserter(points),
                 [start](double t) { return t > start + kTimeRounding; });
    return points;
}

} // namespace

double &Table::cell(std::size_t row, std::string_view column) {
    const auto place = std::find(columns_.begin(), columns_.end(), column);
    return rows_[row][static_cast<std::size_t>(place - columns_.begin())];
}

// The last row as x' = x.
Table Table::unchanged() const {
    Table result = *this;
    result.rows_ = {rows_.back()};
    for (const char *column : {"b", "c", "n", "s", "share"}) {
        result.cell(0, column) = 0.0;
    }
    result.cell(0, "t") = 1.0;
    result.cell(0, "a") = 1.0;
    result.name_ += "-from1";
    result.meta_["start"] = 1;
    return result;
}

// A row like the first one, with the columns of a solver and of guidance.
void Table::append(const SolverRow &row, bool is_guided) {
    rows_.push_back(rows_.front());
    const std::size_t last = rows_.size() - 1;
    cell(last, "t") = row.t;
    cell(last, "a") = row.a;
    cell(last, "b") = row.b;
    cell(last, "c") = row.c;
    cell(last, "n") = row.n;
    cell(last, "s") = row.s;
    cell(last, "share") = is_guided ? 1.0 : 0.0;
}

Table Table::started(double start) const {
    if (start == 0.0) {
        return *this;
    }
    if (start == 1.0) {
        return unchanged();
    }
    const bool is_free = meta_.contains("grid") && meta_.at("grid") == "free";
    if (!meta_.contains("solver") || !meta_.contains("steps") || is_free) {
        fail_usage("table " + name_ + " does not name its solver and grid, so it cannot start " +
                   "later; compile one with minit2i table");
    }
    try {
        const Origin origin = read_origin(meta_);
        if (!is_solver(origin.solver)) {
            fail_usage("table " + name_ + " is of solver " + quote(origin.solver) +
                       ", which this program cannot start later; use one of Python's");
        }
        const Points points = points_from(origin, start, is_conditioned());
        Table result = *this;
        for (const SolverRow &row :
             solver_rows(origin.solver, points, origin.floor, origin.repeats)) {
            const bool is_inside =
                origin.first - kTimeRounding <= row.t && row.t <= origin.last + kTimeRounding;
            result.append(row, !is_conditioned() && is_inside);
        }
        result.rows_.erase(result.rows_.begin(),
                           result.rows_.begin() + static_cast<std::ptrdiff_t>(size()));
        result.name_ += "-from" + short_float(start);
        result.meta_["start"] = start;
        return result;
    } catch (const JsonError &error) {
        fail_usage("table " + name_ + ": its meta cannot be read: " + error.what());
    }
}

} // namespace minit2i
