// Prints the sum of the INT8 probe on this processor and, for the sum in the first argument, the
// warning. Usage: int8_probe SUM

#include "engine/int8_probe.hpp"

#include <cstdio>
#include <cstdlib>

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: int8_probe SUM\n");
        return 2;
    }
    std::printf("%d\n%s\n", minit2i::int8_probe_sum(),
                minit2i::int8_warning("bundle", std::atoi(argv[1])).c_str());
    return 0;
}
