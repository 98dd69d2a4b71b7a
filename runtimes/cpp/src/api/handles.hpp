// What the opaque handles of minit2i.h hold.
#pragma once

#include "bundle/bundle.hpp"
#include "engine/engine.hpp"
#include "engine/run_control.hpp"
#include "minit2i.h"
#include "sampling/record.hpp"
#include "text/embed.hpp"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace minit2i {

// All that threads share: every member is safe to use from several at once.
class Model {
public:
    Model(const char *path, const minit2i_model_params &params);

    const Tokenizer &tokenizer() const;

    const Warn warn;
    const Bundle bundle;
    mutable Engine engine;

private:
    mutable std::mutex tokenizer_mutex_;
    mutable std::optional<Tokenizer> tokenizer_;
};

} // namespace minit2i

struct minit2i_model {
    std::shared_ptr<const minit2i::Model> shared;
};

struct minit2i_state {
    std::shared_ptr<const minit2i::Model> model;
    minit2i::Warn warn;
    minit2i::RunControl control;
    std::atomic<bool> is_busy{false};
};

struct minit2i_embeddings {
    minit2i::Embedded embedded;
    std::vector<float> pooled;
};

struct minit2i_images {
    minit2i::Generation generation;
    std::vector<minit2i::TextFields> fields;
    std::string table;
};

namespace minit2i {

// Holds a state for the length of one call.
class StateCall {
public:
    // Throws a usage failure where another call has the state.
    explicit StateCall(minit2i_state &state);
    StateCall(const StateCall &) = delete;
    StateCall &operator=(const StateCall &) = delete;
    ~StateCall() { state_.is_busy = false; }

private:
    minit2i_state &state_;
};

} // namespace minit2i
