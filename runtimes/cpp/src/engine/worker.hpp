// One thread that runs what others hand to it, in order.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

namespace minit2i {

// ONNX Runtime keeps a recorded graph with the thread that recorded it, so one thread runs them
// all.
class Worker {
public:
    Worker() : thread_([this] { loop(); }) {}
    Worker(const Worker &) = delete;
    Worker &operator=(const Worker &) = delete;
    ~Worker() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            ends_ = true;
        }
        changed_.notify_one();
        thread_.join();
    }

    // Runs work in the thread and returns when it is done; its exception is thrown here.
    template <typename Work> void run(Work work) {
        std::packaged_task<void()> task(std::ref(work));
        std::future<void> done = task.get_future();
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            tasks_.push_back(&task);
        }
        changed_.notify_one();
        done.get();
    }

private:
    void loop() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            changed_.wait(lock, [this] { return ends_ || !tasks_.empty(); });
            if (tasks_.empty()) {
                return;
            }
            std::packaged_task<void()> *task = tasks_.front();
            tasks_.pop_front();
            lock.unlock();
            (*task)();
            lock.lock();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::packaged_task<void()> *> tasks_;
    bool ends_ = false;
    std::thread thread_; // last: it uses the others
};

} // namespace minit2i
