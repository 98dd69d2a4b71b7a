// SHA-256. Source: FIPS 180-4.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace minit2i {

class Sha256 {
public:
    void update(const void *data, std::size_t size);
    // 64 lower-case hexadecimal digits; the object is spent after this.
    std::string finish();

private:
    void block(const unsigned char *data);

    std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<unsigned char, 64> pending_{};
    std::size_t num_pending_ = 0;
    std::uint64_t num_bytes_ = 0;
};

std::string sha256_hex(std::string_view data);

} // namespace minit2i
