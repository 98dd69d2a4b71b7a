// Whether who wants a gate alone gets in while shares of other threads overlap. Prints the most
// shares that were held at once.

#include "engine/cuda_gate.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kSharers = 3;
constexpr int kTurns = 5;
constexpr std::chrono::seconds kMostWait{10};
// A share is held until another one has begun, so that one is always held, or for so long.
constexpr std::chrono::milliseconds kMostShare{20};

class Trial {
public:
    // How often the gate was held alone, of kTurns, before the time was over.
    int run() {
        std::vector<std::thread> threads;
        for (int sharer = 0; sharer < kSharers; ++sharer) {
            threads.emplace_back(&Trial::share, this);
        }
        threads.emplace_back(&Trial::take_alone, this);
        const Clock::time_point end = Clock::now() + kMostWait;
        while (turns_ < kTurns && Clock::now() < end) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        const int turns = turns_;
        ends_ = true;
        for (std::thread &thread : threads) {
            thread.join();
        }
        return turns;
    }

    bool is_exclusive() const { return is_exclusive_; }
    int most_shares() const { return most_shares_; }

private:
    void share() {
        while (!ends_) {
            const std::shared_lock<minit2i::CudaGate> lock(gate_);
            const int begun = ++begun_;
            const int held = ++shares_;
            int most = most_shares_;
            while (held > most && !most_shares_.compare_exchange_weak(most, held)) {
            }
            const Clock::time_point end = Clock::now() + kMostShare;
            while (begun_ == begun && !ends_ && Clock::now() < end) {
                std::this_thread::sleep_for(std::chrono::microseconds(100));
            }
            --shares_;
        }
    }

    void take_alone() {
        while (most_shares_ < 2 && !ends_) {
            std::this_thread::sleep_for(std::chrono::microseconds(100));
        }
        while (turns_ < kTurns && !ends_) {
            const std::unique_lock<minit2i::CudaGate> lock(gate_);
            is_exclusive_ = is_exclusive_ && shares_ == 0;
            ++turns_;
        }
    }

    minit2i::CudaGate gate_;
    std::atomic<bool> ends_{false};
    std::atomic<bool> is_exclusive_{true};
    std::atomic<int> begun_{0};
    std::atomic<int> shares_{0};
    std::atomic<int> most_shares_{0};
    std::atomic<int> turns_{0};
};

} // namespace

int main() {
    Trial trial;
    const int turns = trial.run();
    if (turns < kTurns) {
        std::fprintf(stderr, "held alone %d times of %d while shares overlap\n", turns, kTurns);
        return 1;
    }
    if (!trial.is_exclusive()) {
        std::fprintf(stderr, "held alone beside a share\n");
        return 1;
    }
    std::printf("%d\n", trial.most_shares());
    return 0;
}
