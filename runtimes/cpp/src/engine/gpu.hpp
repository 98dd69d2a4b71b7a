// The GPU that a session runs on, as CUDA's runtime library tells it.
#pragma once

#include <string>

namespace minit2i {

// Why a GPU has no kernels for graphs of a precision, or nothing: also where CUDA is not loaded.
std::string gpu_lacks(const std::string &precision, int device);

} // namespace minit2i
