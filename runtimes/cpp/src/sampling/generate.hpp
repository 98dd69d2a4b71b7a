// From prompts to pictures: the whole main path, in order.
#pragma once

#include "bundle/bundle.hpp"
#include "engine/engine.hpp"
#include "text/embed.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace minit2i {

// What the caller asks for; docs/guides/cpp.md says what each stands for.
struct Request {
    std::vector<std::string_view> prompts;
    std::vector<std::uint64_t> seeds;
    std::optional<std::string_view> negative;
    std::string preset;
    std::string table; // a name, or a .json file
    double guidance = 0.0; // NaN: the preset's
    std::optional<std::pair<double, double>> interval;
    const float *noise = nullptr; // float32 [prompts, 3, size, size]
    std::size_t noise_count = 0;
};

struct Painted {
    std::vector<float> state;         // float32 [prompts, 3, size, size]
    std::vector<std::uint8_t> pixels; // [prompts, size, size, 3]
    Table table;
    double guidance = 0.0;
    double step_seconds = 0.0;
};

Painted generate(const Bundle &bundle, Engine &engine, const Tokenizer &tokenizer,
                 const Request &request, const Progress &progress, const Warn &warn);

} // namespace minit2i
