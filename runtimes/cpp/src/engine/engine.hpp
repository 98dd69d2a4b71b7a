// ONNX Runtime: the bundle's graphs as they are, each opened on first use.
#pragma once

#include "bundle/bundle.hpp"
#include "engine/provider.hpp"

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace minit2i {

// A float32 array and its sizes.
struct Tensor {
    std::vector<float> values;
    std::vector<std::int64_t> shape;
};

// Throws a runtime failure with the first line of what the library said.
[[noreturn]] void fail_engine(const std::string &where, const Ort::Exception &error);

class Engine {
public:
    // lean: the text encoder's session is dropped before the denoiser's is opened.
    Engine(const Bundle &bundle, ProviderChoice choice, int num_threads, bool lean);

    // ids and mask int64 [n, tokens] -> float32 [n, tokens, width].
    Tensor encode(std::vector<std::int64_t> &ids, std::vector<std::int64_t> &mask, std::size_t n);
    // context float32 [n, length, width], mask int64 [n, length], conditions float32 [n, 4] or
    // empty -> float32 [n, adapted, hidden].
    Tensor adapt(Tensor &context, std::vector<std::int64_t> &mask, std::vector<float> &conditions);
    Ort::Session &session(const std::string &graph);

private:
    Tensor run(const std::string &graph, const std::vector<const char *> &names,
               const std::vector<Ort::Value> &inputs);
    Ort::SessionOptions options() const;

    const Bundle &bundle_;
    ProviderChoice choice_;
    bool lean_;
    int num_threads_;
    Ort::Env env_;
    std::map<std::string, Ort::Session> sessions_;
};

// The state of one batch: two pairs (x, h) of buffers that swap roles from row to row.
class Trajectory {
public:
    // start float32 [batch, 3, H, W]; tokens float32 [branches, batch, adapted, hidden].
    Trajectory(Tensor start, Tensor tokens);

    // session is that of a step graph; another one may take the next row. noise takes the place
    // of h where the row asks for it; it may be empty.
    void step(Ort::Session &session, std::array<float, 6> row, std::vector<float> weights,
              const std::vector<float> &noise);
    const std::vector<float> &x() const { return buffers_[now_][0]; }

private:
    Ort::MemoryInfo memory_;
    std::vector<std::int64_t> shape_;
    Tensor tokens_;
    std::array<std::array<std::vector<float>, 2>, 2> buffers_;
    std::size_t now_ = 0;
};

} // namespace minit2i
