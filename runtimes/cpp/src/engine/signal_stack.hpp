// Puts back the stack that signals are handled on, where a library leaves its own behind.
#pragma once

#include <csignal>

namespace minit2i {

// OpenVINO's CPU plugin gives the thread that loads it an alternate signal stack and unmaps it when
// it is freed (2026.4); a program that handles signals there would then crash at the next one.
class SignalStackGuard {
public:
    SignalStackGuard() : is_known_(::sigaltstack(nullptr, &before_) == 0) {}
    SignalStackGuard(const SignalStackGuard &) = delete;
    SignalStackGuard &operator=(const SignalStackGuard &) = delete;
    ~SignalStackGuard() {
        if (is_known_) {
            ::sigaltstack(&before_, nullptr);
        }
    }

private:
    stack_t before_{};
    bool is_known_;
};

} // namespace minit2i
