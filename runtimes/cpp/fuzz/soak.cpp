// Embeds over and over with two clients in two threads and watches the memory of the process.
// Usage: soak BUNDLE COUNT [PLUGIN]. PLUGIN is a library of the provider openvino, which both
// threads load at once. Exits 1 where the second half takes more memory than the first one.

#include "minit2i.hpp"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <future>
#include <string>
#include <thread>
#include <vector>

namespace {

#if defined(__SANITIZE_ADDRESS__)
// The sanitizer keeps what was freed for a while, and reports what was not by itself.
constexpr long kSlackBytes = 256L << 20;
#else
// Allocators give pages back late; a leak of one embedding a call is far above this.
constexpr long kSlackBytes = 2L << 20;
#endif

long resident_bytes() {
    long pages = 0;
    std::ifstream("/proc/self/statm") >> pages >> pages;
    return pages * ::sysconf(_SC_PAGESIZE);
}

std::vector<minit2i::Client> open_in_two_threads(const char *bundle, const char *plugin) {
    const auto open = [&] {
        minit2i_open_params params = minit2i::open_params();
        params.provider = plugin == nullptr ? "cpu" : "openvino";
        params.plugin = plugin;
        return minit2i::Client(bundle, params);
    };
    auto first = std::async(std::launch::async, open);
    auto second = std::async(std::launch::async, open);
    std::vector<minit2i::Client> clients;
    clients.push_back(first.get());
    clients.push_back(second.get());
    return clients;
}

void embed(minit2i::Client &client, int count, std::atomic<bool> &failed) {
    try {
        for (int i = 0; i < count; ++i) {
            const std::string words = "a red circle and " + std::to_string(i % 7) + " squares";
            client.embed({words, "", words + words});
        }
    } catch (const std::exception &error) {
        std::fprintf(stderr, "soak: error: %s\n", error.what());
        failed = true;
    }
}

bool embed_in_two_threads(std::vector<minit2i::Client> &clients, int count) {
    std::atomic<bool> failed{false};
    std::vector<std::thread> threads;
    for (minit2i::Client &client : clients) {
        threads.emplace_back([&client, count, &failed] { embed(client, count, failed); });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    return !failed;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4 || std::atoi(argv[2]) < 4) {
        std::fprintf(stderr, "usage: soak BUNDLE COUNT [PLUGIN]\n");
        return 2;
    }
    const int quarter = std::atoi(argv[2]) / 4;
    std::vector<minit2i::Client> clients =
        open_in_two_threads(argv[1], argc == 4 ? argv[3] : nullptr);
    if (!embed_in_two_threads(clients, quarter)) {
        return 1;
    }
    const long before = resident_bytes();
    if (!embed_in_two_threads(clients, quarter)) {
        return 1;
    }
    const long grown = resident_bytes() - before;
    std::printf("%d calls, %ld KiB more in the second half\n", 4 * quarter, grown / 1024);
    return grown > kSlackBytes ? 1 : 0;
}
