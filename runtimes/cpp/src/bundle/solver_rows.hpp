// Rows of the solvers that tables name, compiled as the Python side does
// (minit2i_deploy/solvers/methods.py and repeats.py, where the formulas have their sources). Only
// tables that start later need them: a run reads rows, and knows no solver.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace minit2i {

// The columns of a table that a solver fills.
struct SolverRow {
    double t, a, b, c, n, s;
};

using Points = std::vector<double>;

// How often stretches of the trajectory are run; jump 0 makes the interval one stretch.
struct Repeats {
    long count = 1;
    long jump = 0;
    double first = 0.0;
    double last = 1.0;
    double noise_scale = 2.0;
};

bool is_solver(std::string_view name);

// The complete grid; a shift of 0 is none. Throws a Failure for a shift of a solver with a grid of
// its own.
Points solver_grid(std::string_view solver, long steps, double shift);

// One row for each evaluation between rising points. Throws a Failure where a repeat does not fit.
std::vector<SolverRow> solver_rows(std::string_view solver, const Points &points, double floor,
                                   const Repeats &repeats);

} // namespace minit2i
