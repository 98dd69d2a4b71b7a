// Prints a table that starts later, as a table file. Usage: start_table TABLE.json START

#include "bundle/table.hpp"
#include "common/failure.hpp"

#include <cstdio>
#include <cstdlib>

int main(int argc, char **argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: start_table TABLE.json START\n");
        return 2;
    }
    try {
        const minit2i::Table table = minit2i::load_table(argv[1]);
        std::fputs(table.started(std::strtod(argv[2], nullptr)).to_json().c_str(), stdout);
    } catch (const minit2i::Failure &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
