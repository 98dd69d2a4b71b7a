#include "sampling/settings.hpp"
#include "sampling/size.hpp"

#include "common/failure.hpp"
#include "common/noise.hpp"
#include "common/python_json.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>

namespace minit2i {
namespace {

bool ends_with(const std::string &text, std::string_view end) {
    return text.size() >= end.size() &&
           text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// As minit2i_deploy/editing/default_preset.py.
const std::string &preset_name(const Bundle &bundle, const Request &request) {
    static const std::string inpaint = "inpaint";
    const bool has_one = bundle.manifest.presets.count(inpaint) != 0;
    const bool is_open = request.preset.empty() && request.known.values != nullptr;
    return is_open && has_one ? inpaint : request.preset;
}

Table select_table(const Bundle &bundle, const Request &request) {
    if (request.table.empty()) {
        return bundle.table(bundle.preset(preset_name(bundle, request)).table);
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

double select_guidance(const Bundle &bundle, const Table &table, const Request &request) {
    if (!std::isnan(request.guidance)) {
        return request.guidance;
    }
    // The guidance in a student's table belongs to that table, not to the preset.
    if (!request.table.empty() && table.is_conditioned()) {
        return table.value(0, "omega");
    }
    return bundle.preset(preset_name(bundle, request)).guidance;
}

// Weights that give the guided estimate in one branch know one scale and no second branch.
void check_one_pass(const Bundle &bundle, const Table &table, double guidance,
                    const Request &request) {
    const double scale = bundle.manifest.one_pass_guidance;
    if (scale == 0.0) {
        return;
    }
    const std::string part = "guidance " + python_float(scale) + " is part of the weights of " +
                             bundle.path.string() + " (one-pass adapter)";
    if (!(std::abs(guidance - scale) <= 1e-6 * scale)) {
        fail_usage(part + ", got " + python_float(guidance) + "; omit it");
    }
    if (request.negative) {
        fail_usage(part + ", which has no branch for a negative prompt; omit it");
    }
    if (request.interval) {
        fail_usage(part + "; omit the interval");
    }
    for (std::size_t row = 0; row < table.size(); ++row) {
        if (table.value(row, "rescale") != 0.0) {
            fail_usage(part + ", but table " + table.name() +
                       " has guidance rescale, which compares two branches; use a table of the "
                       "bundle");
        }
        if (table.value(row, "share") != 0.0) {
            fail_usage(part + ", but table " + table.name() +
                       " runs a second branch; use a table of the bundle");
        }
    }
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
        fail_usage("a few-step student runs one branch and takes no negative prompt; omit it");
    }
    if (!(omega >= 1.0)) {
        fail_usage("guidance is " + python_float(omega) + ", but a student takes 1 (none) or more");
    }
    for (std::size_t row = 1; row < table.size(); ++row) {
        for (const char *column : {"h", "t_min", "t_max"}) {
            if (table.value(row, column) != table.value(0, column)) {
                fail_usage("table " + table.name() +
                           ": h, t_min and t_max change from row to row, but the text adapter "
                           "runs once an image; take equal steps");
            }
        }
    }
    return {static_cast<float>(table.value(0, "h")), static_cast<float>(omega),
            static_cast<float>(table.value(0, "t_min")),
            static_cast<float>(table.value(0, "t_max"))};
}

// The weights of a mix divided by their sum.
std::vector<double> shares_of(const std::vector<double> &weights) {
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::vector<double> shares;
    for (const double weight : weights) {
        shares.push_back(weight / sum);
        // The graph takes float32, where a larger share would become infinity; NaN fails too.
        if (!(std::abs(shares.back()) <= FLT_MAX)) {
            fail_usage("weights of the mix must be finite numbers with a sum that is not 0");
        }
    }
    return shares;
}

// The guidance scale shared out over the parts, then the unconditional branch.
std::vector<float> branch_weights(const std::vector<double> &shares,
                                  const std::vector<float> &guidance) {
    std::vector<float> weights;
    for (const double share : shares) {
        weights.push_back(static_cast<float>(static_cast<double>(guidance[0]) * share));
    }
    weights.insert(weights.end(), guidance.begin() + 1, guidance.end());
    return weights;
}

// Of the three channels.
std::size_t values_per_image(const Size &size) { return 3 * static_cast<std::size_t>(size.area()); }

std::vector<float> seeds_noise(const std::vector<std::uint64_t> &seeds, std::uint32_t stream,
                               std::size_t num_values) {
    std::vector<float> noise(seeds.size() * num_values);
    for (std::size_t index = 0; index < seeds.size(); ++index) {
        standard_noise(seeds[index], stream, noise.data() + index * num_values, num_values);
    }
    return noise;
}

} // namespace

Settings settle(const Bundle &bundle, const Request &request) {
    if (bundle.manifest.model.in_channels != 3) {
        fail_usage("this model has " + std::to_string(bundle.manifest.model.in_channels) +
                   " channels, but images have 3");
    }
    const Size size = checked_size(bundle, request);
    Edit edit = checked_edit(bundle, request, size);
    Table base_table = select_table(bundle, request);
    if (request.interval) {
        base_table = base_table.narrowed(request.interval->first, request.interval->second);
    }
    Table table = base_table.started(edit.start());
    Settings settings{std::move(base_table), std::move(table), 0.0, {}, {}, false, size,
                      std::move(edit)};
    settings.guidance = select_guidance(bundle, settings.base_table, request);
    // The graph takes float32, where a larger value would become infinity; NaN fails too.
    if (!(std::abs(settings.guidance) <= FLT_MAX)) {
        fail_usage("guidance must be finite in float32, got " + python_float(settings.guidance) +
                   "; 1 is none, 2 to 12 are usual");
    }
    check_one_pass(bundle, settings.table, settings.guidance, request);
    settings.conditions =
        student_conditions(bundle, settings.table, settings.guidance, request.negative.has_value());
    const std::vector<double> shares = shares_of(request.weights);
    for (std::size_t row = 0; row < settings.table.size(); ++row) {
        const std::vector<float> guidance = settings.table.guidance_weights(row, settings.guidance);
        settings.guided = settings.guided || guidance.size() > 1;
        settings.weights.push_back(branch_weights(shares, guidance));
    }
    return settings;
}

Tensor start_state(const Bundle &bundle, const Request &request, const Settings &settings) {
    const Size &size = settings.size;
    const std::size_t expected = request.prompts.size() * values_per_image(size);
    std::vector<float> noise;
    if (request.noise == nullptr) {
        noise = seeds_noise(request.seeds, 0, values_per_image(size));
    } else if (request.noise_count != expected) {
        fail_usage("noise has " + std::to_string(request.noise_count) + " values, but " +
                   std::to_string(expected) + " are needed: unit normal, [3, " +
                   std::to_string(size.height) + ", " + std::to_string(size.width) +
                   "] for each image");
    } else {
        noise.assign(request.noise, request.noise + expected);
    }
    if (!std::all_of(noise.begin(), noise.end(),
                     [](float value) { return std::isfinite(value); })) {
        fail_usage("noise holds NaN or infinity; give finite unit normal values");
    }
    for (float &value : noise) {
        value *= static_cast<float>(bundle.manifest.noise_scale);
    }
    settings.edit.begin(noise);
    return {std::move(noise),
            {static_cast<std::int64_t>(request.prompts.size()), 3, size.height, size.width}};
}

std::vector<float> row_noise(const Request &request, const Size &size, std::size_t row) {
    // Stream 0 is the start noise.
    return seeds_noise(request.seeds, static_cast<std::uint32_t>(row + 1), values_per_image(size));
}

} // namespace minit2i
