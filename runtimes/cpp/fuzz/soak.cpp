// Embeds and generates over and over with two threads and watches the memory of the process.
// Usage: soak BUNDLE COUNT [PLUGIN]. The threads share one model; with PLUGIN, a library of the
// provider openvino, each opens a model of its own at the same time. Every 20th call also generates
// images. Exits 1 if memory grows in the second half of COUNT and in every further one: a leak
// does, but an arena only until both threads have once been at their peak at the same time.

#include "minit2i.hpp"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

#if defined(__SANITIZE_ADDRESS__)
// The sanitizer delays the reuse of freed memory, and reports by itself what was never freed.
constexpr long kSlackBytes = 256L << 20;
#else
// Allocators give pages back late; a leak of one embedding a call is far above this.
constexpr long kSlackBytes = 2L << 20;
#endif
constexpr int kNumThreads = 2;
constexpr int kCallsPerImage = 20;
constexpr int kMaxHalves = 6;

using Models = std::vector<std::shared_ptr<minit2i::Model>>;

long resident_bytes() {
    long pages = 0;
    std::ifstream("/proc/self/statm") >> pages >> pages;
    return pages * ::sysconf(_SC_PAGESIZE);
}

// One model for each thread; without a plugin the same one.
Models open_models(const char *bundle, const char *plugin) {
    if (plugin == nullptr) {
        return Models(kNumThreads, std::make_shared<minit2i::Model>(bundle));
    }
    const auto open = [&] {
        minit2i::ModelOptions options;
        options.provider = "openvino";
        options.plugin = plugin;
        return std::make_shared<minit2i::Model>(bundle, options);
    };
    auto first = std::async(std::launch::async, open);
    auto second = std::async(std::launch::async, open);
    return {first.get(), second.get()};
}

void generate(minit2i::State &state, int index) {
    minit2i::GenerateOptions options;
    // Other counts and settings from call to call, so that buffers of every size are asked for.
    options.prompts.assign(static_cast<std::size_t>(1 + index % 3), "a red circle");
    options.seeds.assign(options.prompts.size(), static_cast<std::uint64_t>(index));
    if (index % 2 == 0) {
        options.guidance = 1.0;
    } else {
        options.also = {{"a blue square", 0.5}};
    }
    options.on_preview = [](const minit2i_frame &frame) { return frame.row < 2; };
    try {
        state.generate(options);
    } catch (const minit2i::Error &error) {
        // The preview cancels the third row; all before it was allocated.
        if (error.status != MINIT2I_ERROR_CANCELLED) {
            throw;
        }
    }
}

void work(const minit2i::Model &model, int count, std::atomic<bool> &failed) {
    try {
        minit2i::State state(model);
        for (int i = 0; i < count; ++i) {
            const std::string text = "a red circle and " + std::to_string(i % 7) + " squares";
            state.embed({text, "", text + text});
            if (i % kCallsPerImage == 0) {
                generate(state, i / kCallsPerImage);
            }
        }
    } catch (const std::exception &error) {
        std::fprintf(stderr, "soak: error: %s\n", error.what());
        failed = true;
    }
}

bool work_in_threads(const Models &models, int count) {
    std::atomic<bool> failed{false};
    std::vector<std::thread> threads;
    for (const auto &model : models) {
        threads.emplace_back([&model, count, &failed] { work(*model, count, failed); });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    return !failed;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4 || std::atoi(argv[2]) < 2 * kNumThreads) {
        std::fprintf(stderr, "usage: soak BUNDLE COUNT [PLUGIN]\n");
        return 2;
    }
    const int count = std::atoi(argv[2]) / 2 / kNumThreads;
    const Models models = open_models(argv[1], argc == 4 ? argv[3] : nullptr);
    long growth = 0;
    for (int half = 1; half <= kMaxHalves; ++half) {
        const long before = resident_bytes();
        if (!work_in_threads(models, count)) {
            return 1;
        }
        growth = resident_bytes() - before;
        if (half > 1 && growth <= kSlackBytes) {
            std::printf("%d calls, %ld KiB more in the last half\n", half * kNumThreads * count,
                        growth / 1024);
            return 0;
        }
    }
    std::fprintf(stderr, "soak: error: memory grows, by %ld KiB in the last half\n", growth / 1024);
    return 1;
}
