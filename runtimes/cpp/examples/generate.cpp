// Two threads generate with one model: the weights are in memory once. The first one also looks at
// what the image will be, after each row of its table.
#include <minit2i.hpp>

#include <cstdio>
#include <exception>
#include <future>

namespace {

void generate(const minit2i::Model &model, const std::string &prompt, const std::string &path,
              bool with_previews) {
    minit2i::State state(model); // of this thread
    minit2i::GenerateOptions options;
    options.prompts = {prompt};
    options.seeds = {7};
    options.guidance = 3.0;
    if (with_previews) {
        options.on_preview = [](const minit2i_frame &frame) {
            // frame.pixels is uint8 [num_images, height, width, 3].
            std::printf("preview %u of %u: first pixel %u\n", static_cast<unsigned>(frame.row + 1),
                        static_cast<unsigned>(frame.num_rows), unsigned{frame.pixels[0]});
            return true; // false cancels
        };
    }
    state.generate(options).save_png(0, path);
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: %s BUNDLE FIRST.png SECOND.png\n", argv[0]);
        return 2;
    }
    try {
        const minit2i::Model model(argv[1]);
        auto first =
            std::async(std::launch::async, [&] { generate(model, "a red circle", argv[2], true); });
        generate(model, "a blue square", argv[3], false);
        first.get();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
