// numpy's .npy and .npz files, as far as the programs need them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace programs {

using Shape = std::vector<std::size_t>;

// The bytes of a .npy file.
std::string npy_bytes(const float *values, const Shape &shape);
std::string npy_bytes(const std::int64_t *values, const Shape &shape);

// The bytes of a .npz file: an archive of .npy files, not compressed. Sizes and places from
// plain_limit on have 64 bits; it is ZIP's own, and less in tests.
std::string npz_bytes(const std::vector<std::pair<std::string, std::string>> &arrays,
                      std::uint64_t plain_limit = 0xffffffff);

// Reads a float32 array in C order.
std::vector<float> read_npy(const std::string &path, Shape &shape);

} // namespace programs
