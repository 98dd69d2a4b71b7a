// The C functions on pictures.

#include "api/handles.hpp"
#include "common/files.hpp"
#include "api/guard.hpp"
#include "sampling/png.hpp"
#include "common/unicode.hpp"

#include <cmath>
#include <limits>
#include <memory>

using minit2i::fail_usage;
using minit2i::guarded;
using minit2i::needed;
using minit2i::view_of;

namespace {

minit2i_generate_params default_params() {
    const double unset = std::numeric_limits<double>::quiet_NaN();
    minit2i_generate_params params{};
    params.struct_size = sizeof params;
    params.guidance = unset;
    params.interval_start = unset;
    params.interval_end = unset;
    return params;
}

minit2i::Request request_of(const minit2i_generate_params &params) {
    if (params.num_pictures == 0) {
        fail_usage("no prompt came; give at least one (it may be empty)");
    }
    needed(params.prompts, "prompts");
    minit2i::Request request;
    for (std::size_t index = 0; index < params.num_pictures; ++index) {
        request.prompts.push_back(view_of(params.prompts[index], "prompt"));
        request.seeds.push_back(params.seeds == nullptr ? 0 : params.seeds[index]);
    }
    if (params.negative != nullptr) {
        request.negative = view_of(*params.negative, "negative");
        // The record keeps it also where it has no effect.
        minit2i::check_text(*request.negative, params.num_pictures);
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
    return request;
}

} // namespace

extern "C" {

minit2i_status minit2i_generate_params_defaults(minit2i_generate_params *params, size_t size) {
    return guarded([&] { minit2i::give(&needed(params, "params"), default_params(), size); });
}

minit2i_status minit2i_generate(minit2i_client *client, const minit2i_generate_params *params,
                                minit2i_pictures **pictures) {
    return guarded([&] {
        minit2i_client &known = needed(client, "client");
        minit2i::expect_empty(pictures, "pictures");
        const minit2i_generate_params given = minit2i::known_part(needed(params, "params"), default_params());
        const minit2i::Request request = request_of(given);
        const auto progress = [&given](std::uint64_t done, std::uint64_t total) {
            if (given.on_progress != nullptr &&
                given.on_progress(given.progress_data, done, total) != 0) {
                throw minit2i::Failure(MINIT2I_ERROR_CANCELLED,
                                       "cancelled by the caller after row " +
                                           std::to_string(done) + " of " + std::to_string(total));
            }
        };
        minit2i::Painted painted = minit2i::generate(known.bundle, known.engine, known.tokenizer(),
                                                     request, progress, known.warn);
        std::vector<minit2i::TextFields> fields = minit2i::records(known.bundle, request, painted);
        std::string table = painted.table.name();
        *pictures = new minit2i_pictures{
            std::move(painted), std::move(fields),
            static_cast<std::size_t>(known.bundle.manifest.model.image_size), std::move(table)};
    });
}

size_t minit2i_pictures_count(const minit2i_pictures *pictures) {
    return pictures == nullptr ? 0 : pictures->fields.size();
}

size_t minit2i_pictures_size(const minit2i_pictures *pictures) {
    return pictures == nullptr ? 0 : pictures->size;
}

const uint8_t *minit2i_pictures_pixels(const minit2i_pictures *pictures) {
    return pictures == nullptr ? nullptr : pictures->painted.pixels.data();
}

const float *minit2i_pictures_state(const minit2i_pictures *pictures) {
    return pictures == nullptr ? nullptr : pictures->painted.state.data();
}

double minit2i_pictures_step_seconds(const minit2i_pictures *pictures) {
    return pictures == nullptr ? 0.0 : pictures->painted.step_seconds;
}

const char *minit2i_pictures_table(const minit2i_pictures *pictures) {
    return pictures == nullptr ? "" : pictures->table.c_str();
}

double minit2i_pictures_guidance(const minit2i_pictures *pictures) {
    return pictures == nullptr ? 0.0 : pictures->painted.guidance;
}

minit2i_status minit2i_pictures_save_png(const minit2i_pictures *pictures, size_t index,
                                         const char *path) {
    return guarded([&] {
        needed(pictures, "pictures");
        needed(path, "path");
        const std::size_t count = pictures->fields.size();
        if (index >= count) {
            fail_usage("index is " + std::to_string(index) + ", but there are " +
                       std::to_string(count) + " pictures, counted from 0");
        }
        const std::size_t bytes = pictures->size * pictures->size * 3;
        minit2i::write_file(path,
                            minit2i::encode_png(pictures->painted.pixels.data() + index * bytes,
                                                pictures->size, pictures->fields[index]));
    });
}

void minit2i_pictures_free(minit2i_pictures *pictures) { delete pictures; }

} // extern "C"
