// A warning of the engine after its model is gone, for a state with a function of its own.
// Usage: late_warning BUNDLE CACHE PROMPT; prints what the model's function gets.

#include "minit2i.hpp"

#include <cstdio>

int main(int argc, char **argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: %s BUNDLE CACHE PROMPT\n", argv[0]);
        return 2;
    }
    // Only the model's function and this hold the mark.
    const auto mark = std::make_shared<int>(0);
    std::unique_ptr<minit2i::State> state;
    {
        minit2i::ModelOptions options;
        options.lean = true;
        options.num_threads = 1;
        options.cache = argv[2];
        options.on_warning = [mark](const std::string &text) {
            ++*mark;
            std::printf("%s\n", text.c_str());
        };
        const minit2i::Model model(argv[1], options);
        state = std::make_unique<minit2i::State>(model, [](const std::string &) {});
    }
    if (mark.use_count() < 2) {
        std::fprintf(stderr, "the model's function is gone, but the engine may call it\n");
        return 1;
    }
    state->generate(argv[3]);
    return *mark == 1 ? 0 : 1;
}
