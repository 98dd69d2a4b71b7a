// The C functions on images.

#include "api/guard.hpp"
#include "api/handles.hpp"
#include "common/files.hpp"
#include "common/unicode.hpp"
#include "sampling/png.hpp"

#include <cmath>
#include <limits>
#include <memory>

using minit2i::fail_usage;
using minit2i::guarded;
using minit2i::require;
using minit2i::view_of;

namespace {

minit2i_generate_params default_params() {
    const double unset = std::numeric_limits<double>::quiet_NaN();
    minit2i_generate_params params{};
    params.struct_size = sizeof params;
    params.num_parts = 1;
    params.guidance = unset;
    params.interval_start = unset;
    params.interval_end = unset;
    params.strength = unset;
    return params;
}

void read_prompts(const minit2i_generate_params &params, minit2i::Request &request) {
    if (params.num_images == 0 || params.num_parts == 0) {
        fail_usage(std::string(params.num_images == 0 ? "num_images" : "num_parts") +
                   " is 0, but at least 1 is needed");
    }
    require(params.prompts, "prompts");
    for (std::size_t image = 0; image < params.num_images; ++image) {
        std::vector<std::string_view> parts;
        for (std::size_t part = 0; part < params.num_parts; ++part) {
            parts.push_back(view_of(params.prompts[image * params.num_parts + part], "prompt"));
        }
        request.prompts.push_back(std::move(parts));
        request.seeds.push_back(params.seeds == nullptr ? 0 : params.seeds[image]);
    }
    request.weights.assign(params.num_parts, 1.0);
    if (params.weights != nullptr) {
        request.weights.assign(params.weights, params.weights + params.num_parts);
    }
}

minit2i::Request request_of(const minit2i_generate_params &params) {
    minit2i::Request request;
    read_prompts(params, request);
    if (params.negative != nullptr) {
        request.negative = view_of(*params.negative, "negative");
        // The record has it also where it has no effect.
        minit2i::check_text(*request.negative, params.num_images * params.num_parts);
    }
    request.preset = params.preset == nullptr ? "" : params.preset;
    request.table = params.table == nullptr ? "" : params.table;
    request.guidance = params.guidance;
    if (std::isnan(params.interval_start) != std::isnan(params.interval_end)) {
        fail_usage("interval has only one end; set both or leave both NaN");
    }
    if (!std::isnan(params.interval_start)) {
        request.interval = {params.interval_start, params.interval_end};
    }
    request.noise = params.noise;
    request.noise_count = params.noise_count;
    request.init_image = {params.init_image, params.init_image_count};
    request.strength = params.strength;
    request.known = {params.known, params.known_count};
    request.known_mask = {params.known_mask, params.known_mask_count};
    request.size = {params.width, params.height};
    if ((params.width == 0) != (params.height == 0) || params.width < 0 || params.height < 0) {
        fail_usage("width and height are " + std::to_string(params.width) + " and " +
                   std::to_string(params.height) +
                   ", but both must be pixels, or both 0 for the bundle's own");
    }
    return request;
}

minit2i::OnFrame frames_of(minit2i_preview call, void *data) {
    if (call == nullptr) {
        return {};
    }
    return [call, data](const minit2i::Frame &frame) {
        minit2i_frame values{};
        values.struct_size = sizeof values;
        values.row = frame.row;
        values.num_rows = frame.num_rows;
        values.t = frame.t;
        values.num_images = frame.num_images;
        values.size = static_cast<size_t>(frame.size.height);
        values.pixels = frame.pixels.data();
        values.estimate = frame.estimate.data();
        values.width = static_cast<size_t>(frame.size.width);
        values.height = static_cast<size_t>(frame.size.height);
        if (call(data, &values) != 0) {
            throw minit2i::Failure(MINIT2I_ERROR_CANCELLED, "cancelled by the caller after row " +
                                                                std::to_string(frame.row + 1) +
                                                                " of " +
                                                                std::to_string(frame.num_rows));
        }
    };
}

} // namespace

extern "C" {

minit2i_status minit2i_generate_params_defaults(minit2i_generate_params *params, size_t size) {
    return guarded(
        [&] { minit2i::write_struct(&require(params, "params"), default_params(), size); });
}

minit2i_status minit2i_generate(minit2i_state *state, const minit2i_generate_params *params,
                                minit2i_images **images) {
    return guarded([&] {
        minit2i_state &own = require(state, "state");
        minit2i::require_empty(images, "images");
        const minit2i_generate_params settings =
            minit2i::read_struct(require(params, "params"), default_params());
        const minit2i::Request request = request_of(settings);
        const minit2i::StateCall call(own);
        const minit2i::Model &model = *own.model;
        minit2i::Generation generation = minit2i::generate(
            model.bundle, model.engine, model.tokenizer(), request,
            {own.control, minit2i::progress_of(settings.on_progress, settings.progress_data, "row"),
             frames_of(settings.on_preview, settings.preview_data), own.warn});
        std::vector<minit2i::TextFields> fields =
            minit2i::records(model.bundle, request, generation);
        std::string table = generation.table.name();
        *images = new minit2i_images{std::move(generation), std::move(fields), std::move(table)};
    });
}

size_t minit2i_images_count(const minit2i_images *images) {
    return images == nullptr ? 0 : images->fields.size();
}

size_t minit2i_images_size(const minit2i_images *images) { return minit2i_images_height(images); }

size_t minit2i_images_width(const minit2i_images *images) {
    return images == nullptr ? 0 : static_cast<size_t>(images->generation.size.width);
}

size_t minit2i_images_height(const minit2i_images *images) {
    return images == nullptr ? 0 : static_cast<size_t>(images->generation.size.height);
}

const uint8_t *minit2i_images_pixels(const minit2i_images *images) {
    return images == nullptr ? nullptr : images->generation.pixels.data();
}

const float *minit2i_images_state(const minit2i_images *images) {
    return images == nullptr ? nullptr : images->generation.state.data();
}

double minit2i_images_step_seconds(const minit2i_images *images) {
    return images == nullptr ? 0.0 : images->generation.step_seconds;
}

const char *minit2i_images_table(const minit2i_images *images) {
    return images == nullptr ? "" : images->table.c_str();
}

double minit2i_images_guidance(const minit2i_images *images) {
    return images == nullptr ? 0.0 : images->generation.guidance;
}

minit2i_status minit2i_images_save_png(const minit2i_images *images, size_t index,
                                       const char *path) {
    return guarded([&] {
        require(images, "images");
        require(path, "path");
        const std::size_t count = images->fields.size();
        if (index >= count) {
            fail_usage("index is " + std::to_string(index) + ", but there are " +
                       std::to_string(count) + " images, counted from 0");
        }
        const minit2i::Size &size = images->generation.size;
        const std::size_t bytes = 3 * static_cast<std::size_t>(size.area());
        minit2i::write_file(path,
                            minit2i::encode_png(images->generation.pixels.data() + index * bytes,
                                                size, images->fields[index]));
    });
}

void minit2i_images_free(minit2i_images *images) { delete images; }

} // extern "C"
