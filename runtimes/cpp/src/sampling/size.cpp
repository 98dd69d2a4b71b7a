#include "sampling/size.hpp"
#include "common/failure.hpp"

#include <algorithm>

namespace minit2i {

Size checked_size(const Bundle &bundle, const Request &request) {
    const ModelInfo &model = bundle.manifest.model;
    const Size size = request.size;
    if ((size.width == 0 && size.height == 0) || size == model.size) {
        return model.size;
    }
    const std::string got = "image size is " + size.text();
    if (!bundle.manifest.side_bounds) {
        fail_usage(got + ", but the bundle's images are " + model.size.text() +
                   " alone; export it with --sides MIN-MAX");
    }
    if (size.width % model.patch_size != 0 || size.height % model.patch_size != 0) {
        fail_usage(got + ", but both sides must be multiples of the patch of " +
                   std::to_string(model.patch_size) + " pixels");
    }
    const auto [least, most] = *bundle.manifest.side_bounds;
    if (std::min(size.width, size.height) < least || std::max(size.width, size.height) > most) {
        fail_usage(got + ", but sides of this bundle are " + std::to_string(least) + " to " +
                   std::to_string(most) + " pixels; export it with other --sides for more");
    }
    return size;
}

} // namespace minit2i
