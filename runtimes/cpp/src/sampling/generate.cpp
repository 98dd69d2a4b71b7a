#include "sampling/generate.hpp"

#include "common/failure.hpp"
#include "sampling/noise.hpp"
#include "common/python_json.hpp"

#include <algorithm>
#include <cfloat>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace minit2i {
namespace {

// As in Python, which compares the same float64 values.
constexpr double kTimeRounding = 1e-9;

bool ends_with(const std::string &text, std::string_view end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Table chosen_table(const Bundle &bundle, const Request &request) {
    if (request.table.empty()) {
        return bundle.table(bundle.preset(request.preset).table);
    }
    if (!ends_with(request.table, ".json")) {
        return bundle.table(request.table);
    }
    try {
        return load_table(request.table);
    } catch (const JsonError &error) {
        fail_usage(error.what());
    }
}

double chosen_guidance(const Bundle &bundle, const Table &table, const Request &request) {
    if (!std::isnan(request.guidance)) {
        return request.guidance;
    }
    // What a student's table tells it belongs to that table, not to the preset.
    if (!request.table.empty() && table.is_conditioned()) {
        return table.value(0, "omega");
    }
    return bundle.preset(request.preset).guidance;
}

std::vector<float> student_conditions(const Bundle &bundle, const Table &table, double omega,
                                      bool has_negative) {
    if (bundle.manifest.model.is_student != table.is_conditioned()) {
        fail_usage("table " + table.name() + " does not fit " + bundle.path.string() + ", a " +
                   (table.is_conditioned() ? "base model; take a table without student conditions"
                                           : "student; take a table that holds its conditions"));
    }
    if (!table.is_conditioned()) {
        return {};
    }
    if (has_negative) {
        fail_usage("a few-step student runs one branch and takes no negative prompt; leave it out");
    }
    if (!(omega >= 1.0)) {
        fail_usage("guidance is " + python_float(omega) +
                   ", but a student is told 1 (none) or more");
    }
    for (std::size_t row = 1; row < table.size(); ++row) {
        for (const char *column : {"h", "t_min", "t_max"}) {
            if (table.value(row, column) != table.value(0, column)) {
                fail_usage("table " + table.name() +
                           ": h, t_min and t_max change from row to row, but the text adapter "
                           "runs once a picture; take equal steps");
            }
        }
    }
    return {static_cast<float>(table.value(0, "h")), static_cast<float>(omega),
            static_cast<float>(table.value(0, "t_min")),
            static_cast<float>(table.value(0, "t_max"))};
}

std::size_t picture_values(const Bundle &bundle) {
    const ModelInfo &model = bundle.manifest.model;
    return static_cast<std::size_t>(model.in_channels * model.image_size * model.image_size);
}

std::vector<float> seeds_noise(const std::vector<std::uint64_t> &seeds, std::uint32_t stream,
                               std::size_t num_values) {
    std::vector<float> noise(seeds.size() * num_values);
    for (std::size_t index = 0; index < seeds.size(); ++index) {
        standard_noise(seeds[index], stream, noise.data() + index * num_values, num_values);
    }
    return noise;
}

Tensor start_state(const Bundle &bundle, const Request &request) {
    const ModelInfo &model = bundle.manifest.model;
    const std::size_t wanted = request.prompts.size() * picture_values(bundle);
    std::vector<float> noise;
    if (request.noise == nullptr) {
        noise = seeds_noise(request.seeds, 0, picture_values(bundle));
    } else if (request.noise_count != wanted) {
        fail_usage("noise has " + std::to_string(request.noise_count) + " values, but " +
                   std::to_string(wanted) + " are needed: unit normal, [3, " +
                   std::to_string(model.image_size) + ", " + std::to_string(model.image_size) +
                   "] for each prompt");
    } else {
        noise.assign(request.noise, request.noise + wanted);
    }
    if (!std::all_of(noise.begin(), noise.end(), [](float value) { return std::isfinite(value); })) {
        fail_usage("noise holds NaN or infinity; give finite unit normal values");
    }
    for (float &value : noise) {
        value *= static_cast<float>(bundle.manifest.noise_scale);
    }
    return {std::move(noise),
            {static_cast<std::int64_t>(request.prompts.size()), model.in_channels,
             model.image_size, model.image_size}};
}

void check_engine_layout(const Bundle &bundle) {
    if (bundle.manifest.model.in_channels != 3) {
        fail_usage("this model has " + std::to_string(bundle.manifest.model.in_channels) +
                   " channels, but pictures have 3");
    }
}

// A step graph for each row. All are open when this returns, so that no row's time holds it.
std::vector<Ort::Session *> step_sessions(const Bundle &bundle, Engine &engine,
                                          const Table &table) {
    const std::optional<LateGraph> &late = bundle.manifest.late;
    const char *graph = kStepGraph;
    std::vector<Ort::Session *> sessions;
    for (std::size_t row = 0; row < table.size(); ++row) {
        // From the first late row on, whatever times a table of one's own has after it.
        if (late && table.value(row, "t") >= late->t - kTimeRounding) {
            graph = kLateGraph;
        }
        sessions.push_back(&engine.session(graph));
    }
    return sessions;
}

// clamp(x, -1, 1) * 127.5 + 128, at most 255, truncated; [3, H, W] to [H, W, 3].
std::vector<std::uint8_t> to_pixels(const std::vector<float> &state, std::size_t count) {
    const std::size_t num_values = state.size() / count;
    const std::size_t plane = num_values / 3;
    std::vector<std::uint8_t> pixels(state.size());
    for (std::size_t at = 0; at < state.size(); ++at) {
        const float value = state[at];
        if (!std::isfinite(value)) {
            fail_runtime("image " + std::to_string(at / num_values) +
                         " of the batch holds NaN or infinity, but finite values are needed; use "
                         "a higher precision (fp32) and run minit2i verify");
        }
        const std::size_t inside = at % num_values;
        const float scaled = std::clamp(value, -1.0F, 1.0F) * 127.5F + 128.0F;
        pixels[at - inside + inside % plane * 3 + inside / plane] =
            static_cast<std::uint8_t>(std::min(scaled, 255.0F));
    }
    return pixels;
}

} // namespace

Painted generate(const Bundle &bundle, Engine &engine, const Tokenizer &tokenizer,
                 const Request &request, const Progress &progress, const Warn &warn) {
    check_engine_layout(bundle);
    Table table = chosen_table(bundle, request);
    if (request.interval) {
        table = table.narrowed(request.interval->first, request.interval->second);
    }
    const double guidance = chosen_guidance(bundle, table, request);
    // The graph takes float32, where a larger value would become infinity; NaN fails too.
    if (!(std::abs(guidance) <= FLT_MAX)) {
        fail_usage("guidance must be a finite number, in float32 too; 1 is none, 2 to 12 are usual");
    }
    Branches branches;
    branches.conditions =
        student_conditions(bundle, table, guidance, request.negative.has_value());
    std::vector<std::vector<float>> weights;
    for (std::size_t row = 0; row < table.size(); ++row) {
        weights.push_back(table.guidance_weights(row, guidance));
        branches.guided = branches.guided || weights.back().size() > 1;
    }
    if (request.negative && !branches.guided) {
        warn("the negative prompt has no effect at guidance " + python_float(guidance) +
             " under table " + table.name());
    }
    branches.negative = request.negative && branches.guided ? &*request.negative : nullptr;
    Tensor tokens = branch_tokens(engine, tokenizer, request.prompts, branches, warn);
    const std::vector<Ort::Session *> sessions = step_sessions(bundle, engine, table);
    Trajectory trajectory(start_state(bundle, request), std::move(tokens));
    const auto began = std::chrono::steady_clock::now();
    for (std::size_t row = 0; row < table.size(); ++row) {
        const bool is_noisy = table.value(row, "n") != 0.0;
        const auto stream = static_cast<std::uint32_t>(row + 1);
        trajectory.step(*sessions[row], table.step_row(row), weights[row],
                        is_noisy ? seeds_noise(request.seeds, stream, picture_values(bundle))
                                 : std::vector<float>{});
        progress(row + 1, table.size());
    }
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - began;
    return {trajectory.x(), to_pixels(trajectory.x(), request.prompts.size()), std::move(table),
            guidance, spent.count()};
}

} // namespace minit2i
