// The noise every runtime and language starts from; docs/reference/bundle.md specifies it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace minit2i {

// Unit normal values 0 to count - 1 of a seed and stream.
void standard_noise(std::uint64_t seed, std::uint32_t stream, float *values, std::size_t count);

} // namespace minit2i
