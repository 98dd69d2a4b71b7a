#include "engine/reference_outputs.hpp"

#include "common/failure.hpp"
#include "common/files.hpp"
#include "common/json.hpp"
#include "common/noise.hpp"
#include "common/python_json.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace minit2i {
namespace {

constexpr char kFile[] = "reference_outputs.json";
constexpr double kMaxError = 0.5;
constexpr std::size_t kNumSamples = 256;
constexpr std::uint64_t kSeed = 7;
// About the size of a T5's output, and tokens of a short prompt.
constexpr float kContextScale = 0.2F;
constexpr std::size_t kNumTokens = 6;

std::vector<float> scaled_noise(std::size_t count, float scale) {
    std::vector<float> values(count);
    standard_noise(kSeed, 0, values.data(), count);
    for (float &value : values) {
        value *= scale;
    }
    return values;
}

std::vector<double> read_samples(const Bundle &bundle, const std::string &graph) {
    std::vector<double> samples;
    if (bundle.manifest.files.count(kFile) == 0) {
        return samples;
    }
    const std::filesystem::path path = bundle.path / kFile;
    try {
        std::string bytes;
        if (!read_file(path, bytes)) {
            throw JsonError("unreadable");
        }
        const Json value = parse_json(bytes);
        const Json &numbers = member(expect_object(value, "samples"), graph.c_str());
        if (!numbers.is_null()) {
            for (const Json &number : expect_list(numbers, "samples." + graph)) {
                samples.push_back(expect_number(number, "samples." + graph));
            }
        }
    } catch (const JsonError &error) {
        fail_bundle(path.string() + ": cannot be read (" + error.what() + "); run minit2i verify");
    }
    return samples;
}

// Evenly chosen deviations from the mean over positions, which is most of an estimate from noise
// and which a broken network may well give.
std::vector<double> sample(const Tensor &output) {
    const auto width = static_cast<std::size_t>(output.shape.back());
    const std::size_t num_positions = output.values.size() / width;
    std::vector<double> mean(width);
    for (std::size_t at = 0; at < output.values.size(); ++at) {
        mean[at % width] += static_cast<double>(output.values[at]);
    }
    const std::size_t size = output.values.size();
    const std::size_t count = std::min(kNumSamples, size);
    const double step =
        count < 2 ? 0.0 : static_cast<double>(size - 1) / static_cast<double>(count - 1);
    std::vector<double> samples;
    for (std::size_t index = 0; index < count; ++index) {
        const auto place =
            static_cast<std::size_t>(std::nearbyint(static_cast<double>(index) * step));
        const std::size_t at = std::min(place, size - 1);
        samples.push_back(static_cast<double>(output.values[at]) -
                          mean[at % width] / static_cast<double>(num_positions));
    }
    return samples;
}

double relative_error(const std::vector<double> &actual, const std::vector<double> &expected) {
    if (actual.size() != expected.size()) {
        return std::numeric_limits<double>::infinity();
    }
    double difference = 0.0;
    double norm = 0.0;
    for (std::size_t index = 0; index < actual.size(); ++index) {
        difference += std::pow(actual[index] - expected[index], 2);
        norm += std::pow(expected[index], 2);
    }
    return std::sqrt(difference) / std::sqrt(norm);
}

} // namespace

bool may_overflow(const std::string &precision) {
    static const std::array<std::string, 5> overflowing{"fp16", "int8", "fp8", "mxfp8", "fp4"};
    return std::find(overflowing.begin(), overflowing.end(), precision) != overflowing.end();
}

std::vector<std::int64_t> reference_ids() { return {3, 4, 5, 6, 7, 8, 9, 10, 11, 1}; }

AdapterInputs reference_adapter_inputs(const Bundle &bundle) {
    const ModelInfo &model = bundle.manifest.model;
    const auto length = static_cast<std::size_t>(model.prompt_length);
    const auto width = static_cast<std::size_t>(model.txt_input_size);
    AdapterInputs inputs{{scaled_noise(length * width, kContextScale),
                          {1, model.prompt_length, model.txt_input_size}},
                         std::vector<std::int64_t>(length),
                         {}};
    std::fill_n(inputs.mask.begin(), std::min(kNumTokens, length), 1);
    if (model.is_student) {
        // h, omega, t_min and t_max of the released student.
        inputs.conditions = {0.25F, 12.0F, 0.2F, 0.8F};
    }
    return inputs;
}

Tensor reference_state(const Bundle &bundle) {
    const ModelInfo &model = bundle.manifest.model;
    const auto count = static_cast<std::size_t>(model.in_channels * model.size.area());
    return {scaled_noise(count, static_cast<float>(bundle.manifest.noise_scale)),
            {1, model.in_channels, model.size.height, model.size.width}};
}

Tensor patches_of(const Bundle &bundle, const std::vector<float> &state) {
    const ModelInfo &model = bundle.manifest.model;
    const auto width = static_cast<std::size_t>(model.size.width);
    const auto height = static_cast<std::size_t>(model.size.height);
    const auto patch = static_cast<std::size_t>(model.patch_size);
    const std::size_t columns = width / patch;
    const std::size_t num_patches = columns * (height / patch);
    const std::size_t depth = state.size() / num_patches;
    Tensor result{std::vector<float>(state.size()),
                  {1, static_cast<std::int64_t>(num_patches), static_cast<std::int64_t>(depth)}};
    for (std::size_t at = 0; at < state.size(); ++at) {
        const std::size_t channel = at / (width * height);
        const std::size_t y = at / width % height;
        const std::size_t x = at % width;
        const std::size_t position = y / patch * columns + x / patch;
        const std::size_t inside = (channel * patch + y % patch) * patch + x % patch;
        result.values[position * depth + inside] = state[at];
    }
    return result;
}

void require_reference_output(const Bundle &bundle, const std::string &graph,
                              const Tensor &output) {
    const std::vector<double> expected = read_samples(bundle, graph);
    if (expected.empty()) {
        return;
    }
    const double error = relative_error(sample(output), expected);
    // NaN fails too.
    if (!(error <= kMaxError)) {
        fail_runtime(bundle.path.string() + ": " + graph +
                     " is broken on onnxruntime: its output for fixed inputs is off by " +
                     short_float(error, 2) +
                     ", and 0.5 is the most; numbers overflow there, so choose another engine, or "
                     "a bundle of a higher precision (fp32)");
    }
}

} // namespace minit2i
