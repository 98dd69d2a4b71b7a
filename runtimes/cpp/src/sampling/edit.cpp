#include "sampling/edit.hpp"

#include "common/failure.hpp"
#include "common/python_json.hpp"
#include "common/sha256.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace minit2i {
namespace {

std::string hash_of(const float *values, std::size_t count) {
    return sha256_hex({reinterpret_cast<const char *>(values), count * sizeof(float)});
}

void check_pair(bool has_first, bool has_second, const char *names) {
    if (has_first != has_second) {
        fail_usage(std::string(names) + " belong together; give both or neither");
    }
}

// One image or mask is repeated for all.
std::vector<float> repeated(const char *name, const FloatView &view, const Size &size,
                            std::size_t channels, std::size_t num_images) {
    const std::size_t one = channels * static_cast<std::size_t>(size.area());
    if (view.count != one && view.count != one * num_images) {
        fail_usage(std::string(name) + " has " + std::to_string(view.count) + " values, but " +
                   std::to_string(one * num_images) + " are needed: [" + std::to_string(channels) +
                   ", " + std::to_string(size.height) + ", " + std::to_string(size.width) +
                   "] for each image, or for one");
    }
    if (!std::all_of(view.values, view.values + view.count,
                     [](float value) { return std::isfinite(value); })) {
        fail_usage(std::string(name) + " must be finite, got NaN or infinity");
    }
    std::vector<float> values;
    for (std::size_t copy = 0; copy < (view.count == one ? num_images : 1); ++copy) {
        values.insert(values.end(), view.values, view.values + view.count);
    }
    return values;
}

void check_mask(const std::vector<float> &mask) {
    const auto [least, most] = std::minmax_element(mask.begin(), mask.end());
    if (*least < 0.0F || *most > 1.0F) {
        fail_usage("known_mask must hold values from 0 (new) to 1 (stays)");
    }
    if (*most == 0.0F || *least == 1.0F) {
        fail_usage(std::string("known_mask is all ") +
                   (*most == 0.0F ? "0, so everything" : "1, so nothing") +
                   " would be new; mark a part of the image");
    }
}

void check_strength(double strength) {
    if (!(0.0 <= strength && strength <= 1.0)) {
        fail_usage("strength must be from 0 (the image as it is) to 1 (a new one), got " +
                   python_float(strength));
    }
}

} // namespace

void Edit::begin(std::vector<float> &noise) const {
    const auto t = static_cast<float>(start());
    const auto rest = static_cast<float>(strength);
    for (std::size_t at = 0; at < init.size(); ++at) {
        noise[at] = t * init[at] + rest * noise[at];
    }
}

void Edit::finish(std::vector<float> &state) const {
    if (known.mask.empty()) {
        return;
    }
    for (std::size_t at = 0; at < state.size(); ++at) {
        // A mask has one channel where an image has three.
        const std::size_t image = at / (3 * plane);
        if (known.mask[image * plane + at % plane] == 1.0F) {
            state[at] = known.image[at];
        }
    }
}

std::vector<EditRecord> Edit::records(std::size_t num_images) const {
    std::vector<EditRecord> result;
    for (std::size_t index = 0; index < num_images && !(init.empty() && known.mask.empty());
         ++index) {
        const std::size_t first = index * 3 * plane;
        EditRecord record;
        if (!init.empty()) {
            record.init_image = hash_of(init.data() + first, 3 * plane);
            record.strength = strength;
        }
        if (!known.mask.empty()) {
            record.known = hash_of(known.image.data() + first, 3 * plane);
            record.mask = hash_of(known.mask.data() + index * plane, plane);
        }
        result.push_back(std::move(record));
    }
    return result;
}

Edit checked_edit(const Bundle &bundle, const Request &request, const Size &size) {
    const bool has_init = request.init_image.values != nullptr;
    const bool has_known = request.known.values != nullptr;
    check_pair(has_init, !std::isnan(request.strength), "init_image and strength");
    check_pair(has_known, request.known_mask.values != nullptr, "known and known_mask");
    const std::size_t num_images = request.prompts.size();
    Edit edit;
    edit.plane = static_cast<std::size_t>(size.area());
    if (has_init) {
        check_strength(request.strength);
        edit.strength = request.strength;
        edit.init = repeated("init_image", request.init_image, size, 3, num_images);
    }
    if (has_known) {
        if (!bundle.manifest.can_edit()) {
            fail_usage(bundle.path.string() +
                       ": this bundle cannot edit images, because its step graph is of format "
                       "version 1; re-run minit2i export");
        }
        edit.known = {repeated("known", request.known, size, 3, num_images),
                      repeated("known_mask", request.known_mask, size, 1, num_images)};
        check_mask(edit.known.mask);
    }
    return edit;
}

} // namespace minit2i
