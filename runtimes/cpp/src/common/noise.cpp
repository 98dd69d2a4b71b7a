#include "common/noise.hpp"

#include <array>
#include <cmath>

namespace minit2i {
namespace {

using Block = std::array<std::uint32_t, 4>;

constexpr int kNumRounds = 10;
constexpr double kTwoPi = 6.283185307179586476925286766559;

// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
Block philox(Block c, std::uint64_t seed) {
    std::uint32_t k0 = static_cast<std::uint32_t>(seed);
    std::uint32_t k1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < kNumRounds; ++round) {
        const std::uint64_t left = std::uint64_t{0xD2511F53} * c[0];
        const std::uint64_t right = std::uint64_t{0xCD9E8D57} * c[2];
        c = {static_cast<std::uint32_t>(right >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(right),
             static_cast<std::uint32_t>(left >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(left)};
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

// Half a step keeps the logarithm's argument inside (0, 1).
double uniform(std::uint32_t word) { return (static_cast<double>(word) + 0.5) * 0x1p-32; }

} // namespace

void standard_noise(std::uint64_t seed, std::uint32_t stream, float *values, std::size_t count) {
    for (std::size_t start = 0; start < count; start += 4) {
        const std::uint64_t block = start / 4;
        const Block w = philox(
            {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), stream, 0},
            seed);
        for (std::size_t pair = 0; pair < 4 && start + pair < count; pair += 2) {
            const double radius = std::sqrt(-2.0 * std::log(uniform(w[pair])));
            const double angle = kTwoPi * uniform(w[pair + 1]);
            values[start + pair] = static_cast<float>(radius * std::cos(angle));
            if (start + pair + 1 < count) {
                values[start + pair + 1] = static_cast<float>(radius * std::sin(angle));
            }
        }
    }
}

} // namespace minit2i
