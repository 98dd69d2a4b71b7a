// Embed a list of strings and print the similarity of each to the first.
#include <minit2i.hpp>

#include <cstdio>
#include <numeric>

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s BUNDLE\n", argv[0]);
        return 2;
    }
    const std::vector<std::string> texts{"a red circle", "a crimson circle", "two blue squares"};
    try {
        const minit2i::Model model(argv[1]);
        minit2i::State state(model);
        const minit2i::Embeddings embeddings = state.embed(texts);
        const float *first = embeddings.pooled();
        for (std::size_t text = 0; text < texts.size(); ++text) {
            const float *other = first + text * embeddings.width();
            const double similarity =
                std::inner_product(first, first + embeddings.width(), other, 0.0);
            std::printf("%.4f  %s\n", similarity, texts[text].c_str());
        }
    } catch (const minit2i::Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
