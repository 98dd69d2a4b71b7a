// The size of a request's images.
#pragma once

#include "bundle/bundle.hpp"
#include "sampling/generate.hpp"

namespace minit2i {

// The request's size, or where it asks for none the bundle's. Throws a usage failure for one that
// the bundle does not have.
Size checked_size(const Bundle &bundle, const Request &request);

} // namespace minit2i
