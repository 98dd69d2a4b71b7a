#include "bundle/solver_rows.hpp"
#include "common/failure.hpp"
#include "common/python_json.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace minit2i {
namespace {

constexpr double kTimeRounding = 1e-9;
constexpr double kLastEvaluation = 0.96;
constexpr std::size_t kMaxRows = 20000;

using Rows = std::vector<SolverRow>;

// Of a step from point i: its length, and that over the distance to 1.
struct Steps {
    std::vector<double> dt, share;
};

Steps steps_of(const Points &points, double floor) {
    Steps steps;
    for (std::size_t i = 0; i + 1 < points.size(); ++i) {
        steps.dt.push_back(points[i + 1] - points[i]);
        steps.share.push_back(steps.dt[i] / std::max(1.0 - points[i], floor));
    }
    return steps;
}

Rows euler(const Points &points, double floor) {
    const Steps steps = steps_of(points, floor);
    Rows rows;
    for (std::size_t i = 0; i < steps.dt.size(); ++i) {
        const double b = steps.share[i];
        rows.push_back({points[i], 1.0 - b, b, 0.0, 0.0, 0.0});
    }
    return rows;
}

Rows heun(const Points &points, double floor) {
    const Steps steps = steps_of(points, floor);
    Rows rows;
    for (std::size_t i = 0; i < steps.dt.size(); ++i) {
        const double b = steps.share[i];
        if (i + 1 == steps.dt.size()) {
            rows.push_back({points[i], 1.0 - b, b, 0.0, 0.0, 0.0});
            break;
        }
        const double half = 0.5 * steps.dt[i] / std::max(1.0 - points[i + 1], floor);
        rows.push_back({points[i], 1.0 - b, b, 0.0, 0.0, -1.0});
        rows.push_back({points[i + 1], 1.0 - half, half, -0.5 * b, 0.0, 0.0});
    }
    return rows;
}

Rows sde(const Points &points, double floor) {
    const Steps steps = steps_of(points, floor);
    Rows rows;
    for (std::size_t i = 0; i < steps.dt.size(); ++i) {
        const double t = points[i];
        const double dt = steps.dt[i];
        const double b = dt * (1.0 + t) / std::max(1.0 - t, floor);
        const double n = i + 1 == steps.dt.size() ? 0.0 : std::sqrt(2.0 * (1.0 - t) * dt);
        rows.push_back({t, 1.0 - dt - b, b, 0.0, n, 0.0});
    }
    return rows;
}

Rows ab2(const Points &points, double floor) {
    const Steps steps = steps_of(points, floor);
    Rows rows;
    for (std::size_t i = 0; i < steps.dt.size(); ++i) {
        const bool inner = i > 0 && i + 1 < steps.dt.size();
        const double half = inner ? 0.5 * steps.dt[i] / steps.dt[i - 1] : 0.0;
        const double b = steps.share[i] * (1.0 + half);
        const double c = i > 0 ? -half * steps.dt[i] * steps.share[i - 1] / steps.dt[i - 1] : 0.0;
        rows.push_back({points[i], 1.0 - b, b, c, 0.0, -1.0});
    }
    return rows;
}

Rows dpmpp2m(const Points &points, double floor) {
    const Steps steps = steps_of(points, floor);
    const auto lambda = [](double t) {
        return t > 0.0 ? std::log(t) - std::log1p(-t) : -std::numeric_limits<double>::infinity();
    };
    Rows rows;
    for (std::size_t i = 0; i < steps.dt.size(); ++i) {
        double k = 0.0;
        if (i > 0 && i + 1 < steps.dt.size()) {
            const double before = lambda(points[i]) - lambda(points[i - 1]);
            k = 0.5 * (lambda(points[i + 1]) - lambda(points[i])) / before;
        }
        const double share = steps.share[i];
        rows.push_back({points[i], 1.0 - share, share * (1.0 + k), -share * k, 0.0, 0.0});
    }
    return rows;
}

using Method = Rows (*)(const Points &, double);

Method method_of(std::string_view solver) {
    constexpr std::pair<std::string_view, Method> methods[] = {
        {"euler", euler}, {"euler-4e-2", euler}, {"heun", heun},      {"sde", sde},
        {"ab2", ab2},     {"dpmpp2m", dpmpp2m},  {"mean-flow", euler}};
    for (const auto &[name, method] : methods) {
        if (name == solver) {
            return method;
        }
    }
    return nullptr;
}

// Places of the first and last point of each stretch that is repeated.
std::vector<std::pair<std::size_t, std::size_t>> stretches(const Repeats &repeats,
                                                           const Points &points) {
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < points.size(); ++i) {
        if (repeats.first - kTimeRounding <= points[i] &&
            points[i] <= repeats.last + kTimeRounding) {
            places.push_back(i);
        }
    }
    // Back at t = 0 nothing of the image would remain.
    if (repeats.jump == 0) {
        places.erase(std::remove_if(places.begin(), places.end(),
                                    [&points](std::size_t i) { return points[i] <= 0.0; }),
                     places.end());
    }
    const auto length =
        repeats.jump == 0 ? std::max<std::size_t>(places.size(), 1) : std::size_t(repeats.jump);
    std::vector<std::pair<std::size_t, std::size_t>> ends;
    for (std::size_t i = 0; i + 1 < places.size(); i += length) {
        if (points[places[i]] > 0.0) {
            ends.emplace_back(places[i], std::min(places[i] + length, places.back()));
        }
    }
    if (ends.empty()) {
        fail_usage("repeats need a stretch after t = 0 inside interval (" +
                   python_float(repeats.first) + ", " + python_float(repeats.last) +
                   "), which the steps after this start do not have; use more strength");
    }
    return ends;
}

// The path through time: rising points, one list for each pass.
std::vector<Points> passes_of(const Repeats &repeats, const Points &points) {
    if (repeats.count == 1) {
        return {points};
    }
    std::vector<Points> passes(1);
    std::size_t place = 0;
    std::size_t num_steps = points.size() - 1;
    for (const auto &[first, last] : stretches(repeats, points)) {
        num_steps += static_cast<std::size_t>(repeats.count - 1) * (last - first);
        if (num_steps > kMaxRows) {
            fail_usage("repeats make more than 20000 rows");
        }
        for (long turn = 0; turn < repeats.count; ++turn) {
            if (turn > 0) {
                passes.emplace_back();
                place = first;
            }
            for (; place <= last; ++place) {
                passes.back().push_back(points[place]);
            }
        }
    }
    passes.back().insert(passes.back().end(), points.begin() + static_cast<std::ptrdiff_t>(place),
                         points.end());
    return passes;
}

// The row that ends a pass goes back to where the next one begins, and adds what lacks of noise.
void go_back(SolverRow &row, double t, double earlier, double noise_scale) {
    const double most = 1.0 - earlier;
    const double present = earlier / t * (1.0 - t);
    row.a *= earlier / t;
    row.b *= earlier / t;
    row.n = noise_scale * std::sqrt((most - present) * (most + present));
}

} // namespace

bool is_solver(std::string_view name) { return method_of(name) != nullptr; }

Points solver_grid(std::string_view solver, long steps, double shift) {
    const bool is_early = solver == "euler-4e-2";
    const bool is_fixed = is_early || solver == "mean-flow";
    if (is_fixed && shift != 0.0) {
        fail_usage("the grid of solver " + std::string(solver) + " is fixed; omit shift");
    }
    Points points;
    const auto count = static_cast<double>(steps);
    const double step = is_early ? kLastEvaluation / std::max(count - 1.0, 1.0) : 1.0 / count;
    for (long i = 0; i < steps; ++i) {
        const double t = static_cast<double>(i) * step;
        points.push_back(shift != 0.0 ? t / (t + shift * (1.0 - t)) : t);
    }
    if (is_early && steps > 1) {
        points.back() = kLastEvaluation;
    }
    points.push_back(1.0);
    return points;
}

std::vector<SolverRow> solver_rows(std::string_view solver, const Points &points, double floor,
                                   const Repeats &repeats) {
    const std::vector<Points> passes = passes_of(repeats, points);
    Rows result;
    for (std::size_t pass = 0; pass < passes.size(); ++pass) {
        Rows rows = method_of(solver)(passes[pass], floor);
        if (pass + 1 < passes.size()) {
            const bool draws = std::any_of(rows.begin(), rows.end(),
                                           [](const SolverRow &row) { return row.n != 0.0; });
            if (draws || rows.back().c != 0.0) {
                fail_usage("repeats need a solver without noise, whose last row has no history");
            }
            go_back(rows.back(), passes[pass].back(), passes[pass + 1].front(),
                    repeats.noise_scale);
        }
        result.insert(result.end(), rows.begin(), rows.end());
    }
    return result;
}

} // namespace minit2i
