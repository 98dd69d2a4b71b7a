// Writes two small arrays as one .npz file, whose sizes and places from LIMIT on have 64 bits.
// Usage: large_npz FILE LIMIT

#include "files.hpp"
#include "npy.hpp"

#include <cstdio>
#include <cstdlib>
#include <numeric>

int main(int argc, char **argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: %s FILE LIMIT\n", argv[0]);
        return 2;
    }
    std::vector<float> values(24);
    std::iota(values.begin(), values.end(), 0.5F);
    const std::vector<std::int64_t> mask{1, 1, 0, 1, 0, 0};
    programs::write_file(
        argv[1], programs::npz_bytes({{"values", programs::npy_bytes(values.data(), {2, 3, 4})},
                                      {"mask", programs::npy_bytes(mask.data(), {2, 3})}},
                                     std::strtoull(argv[2], nullptr, 10)));
    return 0;
}
