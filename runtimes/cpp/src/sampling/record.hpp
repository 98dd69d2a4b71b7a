// The settings of an image, in the form that the Python side's --from reads.
#pragma once

#include "bundle/bundle.hpp"
#include "sampling/generate.hpp"

#include <string>
#include <utility>
#include <vector>

namespace minit2i {

using TextFields = std::vector<std::pair<std::string, std::string>>;

// PNG text fields of each image.
std::vector<TextFields> records(const Bundle &bundle, const Request &request,
                                const Generation &generation);

} // namespace minit2i
