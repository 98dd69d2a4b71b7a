// minit2i-generate: prompts to images. Written over minit2i.hpp only.

#include "arguments.hpp"
#include "files.hpp"
#include "minit2i.hpp"
#include "npy.hpp"
#include "png_file.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace {

constexpr char kProgram[] = "minit2i-generate";
constexpr char kHelp[] = R"(usage: minit2i-generate [options] BUNDLE PROMPT -o FILE.png
       minit2i-generate BUNDLE --list

Generate an image of a prompt for each seed and write it as PNG, with its
settings in text fields. A single - in place of PROMPT reads prompts from
standard input, one per line.

  -o, --output FILE.png  the image; several seeds: FILE-SEED.png each; several
                         prompts: FILE-INDEX-SEED.png each, INDEX from 0
  --seed N[,N..]         seeds of the noise, 0 (default) to 2**64 - 1
  --also TEXT:WEIGHT     mix another text into the prompt, whose weight is 1; may be
                         given several times
  --negative TEXT        prompt to move away from, in place of no prompt; - is
                         standard input
  --preset NAME          table and guidance that belong together
  --table NAME           a table of the bundle, or a .json file
  --guidance G           guidance scale; 1 is none
  --interval START,END   guide only rows with START <= t <= END
  --size WxH             width and height of the images, where the bundle's are free
  --init-image FILE.png  begin with an image of that size; with --strength
  --strength S           how much of it is new, 0 (nothing) to 1
  --inpaint FILE.png     generate a part of an image of that size anew
  --mask FILE.png        white is new, black stays; default: what is transparent
                         in the image of --inpaint is new
  --noise FILE.npy       float32 unit normal noise, [3, H, W] or
                         [images, 3, H, W], in place of the seeds'
  --save-state FILE.npy  float32 [images, 3, H, W] before rounding, -1 to 1
  --provider NAME        cpu (default), cuda, tensorrt, openvino or tensorrt-rtx
  --plugin PATH          library of the provider openvino or tensorrt-rtx
  --precision NAME       fp32 (default) or bf16, of openvino; fp32 or tf32, of cuda
  --device N             index of the provider's device, from 0 (default)
  --cuda-graph MODE      auto (default), on or off, of cuda: each step is launched at once
  --threads N            CPU threads; 0 (default) is one for each core
  --cache DIR            keep packed weights and encoded prompts in a folder, so that
                         the next start is faster; of cpu
  --verify               hash every file of the bundle first
  --list                 print the bundle's presets and tables
  --json                 print one JSON object per image, in place of text
  --version              print the version

Exit codes: 0 done, 2 wrong use, 1 anything else.
)";

std::string json_text(const std::string &text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            result += '\\';
        }
        if (static_cast<unsigned char>(c) < 0x20) {
            std::array<char, 8> escape{};
            std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(c));
            result += escape.data();
        } else {
            result += c;
        }
    }
    return result + "\"";
}

// Images of one prompt: a seed each, or noise of the caller.
struct Job {
    std::string prompt;
    std::vector<std::uint64_t> seeds;
    std::vector<float> noise;
};

std::vector<std::uint64_t> requested_seeds(const programs::Arguments &arguments) {
    std::vector<std::uint64_t> seeds;
    for (const std::string &part : programs::split_commas(arguments.value("--seed", "0"))) {
        seeds.push_back(programs::parse_unsigned("--seed", part));
    }
    return seeds;
}

std::vector<std::string> requested_prompts(const programs::Arguments &arguments) {
    const std::string &prompt = arguments.positionals()[1];
    if (prompt != "-") {
        return {prompt};
    }
    std::vector<std::string> prompts;
    for (const std::string &line : programs::read_lines("-")) {
        if (line.find_first_not_of(" \t\r") != std::string::npos) {
            prompts.push_back(line);
        }
    }
    if (prompts.empty()) {
        throw programs::UsageError("-: no prompt in it; write one per line");
    }
    return prompts;
}

void set_negative(const programs::Arguments &arguments, minit2i::GenerateOptions &options) {
    if (!arguments.has("--negative")) {
        return;
    }
    options.negative = arguments.value("--negative");
    if (options.negative == "-") {
        if (arguments.positionals()[1] == "-") {
            throw programs::UsageError("PROMPT and --negative cannot both be -");
        }
        const std::vector<std::string> lines = programs::read_lines("-");
        options.negative = lines.empty() ? "" : lines[0];
    }
}

void set_interval(const programs::Arguments &arguments, minit2i::GenerateOptions &options) {
    if (!arguments.has("--interval")) {
        return;
    }
    const std::string text = arguments.value("--interval");
    const std::vector<std::string> ends = programs::split_commas(text);
    if (ends.size() != 2) {
        throw programs::UsageError("--interval is '" + text +
                                   "', but START,END is needed, for example 0.1,0.9");
    }
    options.interval_start = programs::parse_number("--interval", ends[0]);
    options.interval_end = programs::parse_number("--interval", ends[1]);
}

// Of the images: --size, which the library checks, or the bundle's own.
programs::ImageSize requested_size(const programs::Arguments &arguments, const minit2i_info &info,
                                   minit2i::GenerateOptions &options) {
    options.width = info.image_width;
    options.height = info.image_size;
    if (arguments.has("--size")) {
        const std::string text = arguments.value("--size");
        const std::size_t cross = text.find('x');
        if (cross == std::string::npos) {
            throw programs::UsageError("--size is '" + text +
                                       "', but WIDTHxHEIGHT is needed, for example 768x512");
        }
        const auto width = programs::parse_unsigned("--size", text.substr(0, cross));
        const auto height = programs::parse_unsigned("--size", text.substr(cross + 1));
        // To the library two zeros are the bundle's own size.
        if (width == 0 || height == 0) {
            throw programs::UsageError("--size is " + text +
                                       ", but width and height must be positive");
        }
        options.width = static_cast<std::int32_t>(std::min<std::uint64_t>(width, INT32_MAX));
        options.height = static_cast<std::int32_t>(std::min<std::uint64_t>(height, INT32_MAX));
        // The library refuses another one, but only after files are read at that size.
        if (info.max_side == 0 && (width != static_cast<std::uint64_t>(info.image_width) ||
                                   height != static_cast<std::uint64_t>(info.image_size))) {
            throw programs::UsageError("--size is " + text + ", but the bundle's images are " +
                                       std::to_string(info.image_width) + "x" +
                                       std::to_string(info.image_size) +
                                       " alone; export it with --sides MIN-MAX");
        }
    }
    return {static_cast<std::size_t>(options.width), static_cast<std::size_t>(options.height)};
}

void set_mix(const programs::Arguments &arguments, minit2i::GenerateOptions &options) {
    for (const std::string &text : arguments.values("--also")) {
        const std::size_t colon = text.rfind(':');
        if (colon == std::string::npos) {
            throw programs::UsageError("--also is '" + text +
                                       "', but TEXT:WEIGHT is needed, for example "
                                       "\"a square:0.5\"");
        }
        options.also.emplace_back(
            text.substr(0, colon),
            programs::parse_number("weight of --also", text.substr(colon + 1)));
    }
}

// Noise of [3, H, W] is for one image; without --seed it also says how many there are.
void read_noise(const programs::Arguments &arguments, const programs::ImageSize &size, Job &job) {
    programs::Shape shape;
    job.noise = programs::read_npy(arguments.value("--noise"), shape);
    if (shape.size() == 3) {
        shape.insert(shape.begin(), 1);
    }
    if (shape.size() == 4 && shape[0] > 0 && !arguments.has("--seed")) {
        job.seeds.assign(shape[0], 0);
    }
    if (shape != programs::Shape{job.seeds.size(), 3, size.height, size.width}) {
        throw programs::UsageError(arguments.value("--noise") + ": has another shape than [" +
                                   std::to_string(job.seeds.size()) + ", 3, " +
                                   std::to_string(size.height) + ", " + std::to_string(size.width) +
                                   "]");
    }
}

void check_edit_arguments(const programs::Arguments &arguments) {
    if (arguments.has("--init-image") != arguments.has("--strength")) {
        throw programs::UsageError("--init-image and --strength belong together; give both or "
                                   "neither");
    }
    if (arguments.has("--mask") && !arguments.has("--inpaint")) {
        throw programs::UsageError("--mask is for the image of --inpaint; add it");
    }
    if (arguments.has("--init-image") && arguments.has("--noise")) {
        throw programs::UsageError("--init-image and --noise are both starts; omit one");
    }
}

// White of the mask is new, which the library calls not known.
std::vector<float> known_mask(const programs::Arguments &arguments, const programs::PngImage &image,
                              const programs::ImageSize &size) {
    if (!arguments.has("--mask")) {
        if (image.opaque.empty()) {
            throw programs::UsageError(arguments.value("--inpaint") +
                                       ": has no transparent part; name a mask with --mask");
        }
        return image.opaque;
    }
    std::vector<float> mask = programs::read_png_mask(arguments.value("--mask"), size);
    for (float &value : mask) {
        value = 1.0F - value;
    }
    const auto [least, most] = std::minmax_element(mask.begin(), mask.end());
    if (*most == 0.0F || *least == 1.0F) {
        throw programs::UsageError(arguments.value("--mask") + ": is all " +
                                   (*most == 0.0F ? "white, so everything" : "black, so nothing") +
                                   " would be new; mark a part of the image");
    }
    return mask;
}

void read_edit_images(const programs::Arguments &arguments, const programs::ImageSize &size,
                      minit2i::GenerateOptions &options) {
    if (arguments.has("--init-image")) {
        options.init_image = programs::read_png(arguments.value("--init-image"), size).pixels;
        options.strength = arguments.number("--strength", options.strength);
    }
    if (arguments.has("--inpaint")) {
        programs::PngImage image = programs::read_png(arguments.value("--inpaint"), size);
        options.known_mask = known_mask(arguments, image, size);
        options.known = std::move(image.pixels);
    }
}

void check_arguments(const programs::Arguments &arguments) {
    if (arguments.positionals().size() != 2) {
        throw programs::UsageError("expected BUNDLE and PROMPT (in quotes), got " +
                                   std::to_string(arguments.positionals().size()) + " arguments");
    }
    if (!arguments.has("--output")) {
        throw programs::UsageError("-o FILE.png is missing");
    }
    programs::check_suffix(arguments.value("--output"), ".png");
    programs::check_writable(arguments.value("--output"));
    if (arguments.has("--save-state")) {
        programs::check_suffix(arguments.value("--save-state"), ".npy");
        programs::check_writable(arguments.value("--save-state"));
    }
    check_edit_arguments(arguments);
}

minit2i::GenerateOptions generate_options(const programs::Arguments &arguments) {
    minit2i::GenerateOptions options;
    options.preset = arguments.value("--preset");
    options.table = arguments.value("--table");
    options.guidance = arguments.number("--guidance", options.guidance);
    set_negative(arguments, options);
    set_interval(arguments, options);
    set_mix(arguments, options);
    return options;
}

bool show_progress(std::uint64_t done, std::uint64_t total) {
    if (isatty(STDERR_FILENO) != 0) {
        std::fprintf(stderr, "\rrow %llu/%llu%s", static_cast<unsigned long long>(done),
                     static_cast<unsigned long long>(total), done == total ? "\n" : "");
    }
    return true;
}

// Writes images, and gathers what --save-state writes of all prompts at once.
class Output {
public:
    Output(const programs::Arguments &arguments, std::size_t num_prompts)
        : arguments_(arguments), num_prompts_(num_prompts) {}

    void write(const Job &job, std::size_t prompt, const minit2i::Images &images,
               std::uint64_t num_rows) {
        for (std::size_t index = 0; index < images.count(); ++index) {
            const std::string path = path_of(job, prompt, index);
            images.save_png(index, path);
            print(path, job.prompt, images, num_rows);
        }
        if (arguments_.has("--save-state")) {
            const std::size_t count = images.count() * 3 * images.height() * images.width();
            states_.insert(states_.end(), images.state(), images.state() + count);
            shape_ = {shape_[0] + images.count(), 3, images.height(), images.width()};
        }
    }

    void finish() const {
        if (arguments_.has("--save-state")) {
            programs::write_file(arguments_.value("--save-state"),
                                 programs::npy_bytes(states_.data(), shape_));
        }
    }

private:
    std::string path_of(const Job &job, std::size_t prompt, std::size_t index) const {
        const std::string output = arguments_.value("--output");
        if (job.seeds.size() == 1 && num_prompts_ == 1) {
            return output;
        }
        const bool has_seeds = arguments_.has("--seed") || !arguments_.has("--noise");
        const std::string number = std::to_string(has_seeds ? job.seeds[index] : index);
        return output.substr(0, output.size() - 4) +
               (num_prompts_ == 1 ? "" : "-" + std::to_string(prompt)) + "-" + number + ".png";
    }

    void print(const std::string &path, const std::string &prompt, const minit2i::Images &images,
               std::uint64_t num_rows) const {
        if (arguments_.has("--json")) {
            std::printf("{\"path\": %s, \"prompt\": %s, \"table\": %s, \"guidance\": %.17g, "
                        "\"rows\": %llu, \"step_seconds\": %.6f}\n",
                        json_text(path).c_str(), json_text(prompt).c_str(),
                        json_text(images.table()).c_str(), images.guidance(),
                        static_cast<unsigned long long>(num_rows), images.step_seconds());
            return;
        }
        std::printf("%s  %s, guidance %g, %.2f s\n", path.c_str(), images.table().c_str(),
                    images.guidance(), images.step_seconds());
    }

    const programs::Arguments &arguments_;
    std::size_t num_prompts_;
    std::vector<float> states_;
    programs::Shape shape_{0, 3, 0, 0};
};

int list(const programs::Arguments &arguments) {
    const minit2i::Model model(arguments.positionals().at(0));
    for (const minit2i::Preset &preset : model.presets()) {
        std::printf("preset %s: table %s, guidance %g%s\n", preset.name.c_str(),
                    preset.table.c_str(), preset.guidance, preset.is_default ? " (default)" : "");
    }
    for (const minit2i::TableInfo &table : model.tables()) {
        std::printf("table %s: %llu rows\n", table.name.c_str(),
                    static_cast<unsigned long long>(table.num_rows));
    }
    return 0;
}

int generate(const programs::Arguments &arguments) {
    check_arguments(arguments);
    minit2i::GenerateOptions options = generate_options(arguments);
    minit2i::ModelOptions open = programs::model_options(arguments, kProgram);
    const std::vector<std::uint64_t> seeds = requested_seeds(arguments);
    const std::vector<std::string> prompts = requested_prompts(arguments);
    // On the CPU for many prompts too: sums come in another order then, and the last bits of an
    // image must not depend on how many others were asked for. Elsewhere only memory does.
    open.lean = prompts.size() == 1 || open.provider == "cpu";
    const minit2i::Model model(arguments.positionals()[0], open);
    if (arguments.has("--verify")) {
        model.verify();
    }
    const programs::ImageSize size = requested_size(arguments, model.info(), options);
    read_edit_images(arguments, size, options);
    std::uint64_t num_rows = 0;
    options.on_progress = [&num_rows](std::uint64_t done, std::uint64_t total) {
        num_rows = total;
        return show_progress(done, total);
    };
    minit2i::State state(model);
    Output output(arguments, prompts.size());
    for (std::size_t index = 0; index < prompts.size(); ++index) {
        Job job{prompts[index], seeds, {}};
        if (arguments.has("--noise")) {
            read_noise(arguments, size, job);
        }
        options.prompts.assign(job.seeds.size(), job.prompt);
        options.seeds = job.seeds;
        options.noise = job.noise;
        // Before num_rows is read, which it sets; a call's arguments come in any order.
        const minit2i::Images images = state.generate(options);
        output.write(job, index, images, num_rows);
    }
    output.finish();
    return 0;
}

int run(int argc, char **argv) {
    std::vector<std::string> names{"--output",   "--seed",       "--also",       "--negative",
                                   "--preset",   "--table",      "--noise",      "--guidance",
                                   "--interval", "--save-state", "--init-image", "--strength",
                                   "--inpaint",  "--mask",       "--cuda-graph", "--size"};
    names.insert(names.end(), programs::kModelOptions.begin(), programs::kModelOptions.end());
    const programs::Arguments arguments(argc, argv, names, {"--verify", "--json", "--list"},
                                        {"--also"});
    if (arguments.has("--list")) {
        if (arguments.positionals().size() != 1) {
            throw programs::UsageError("--list expects BUNDLE and nothing else");
        }
        return list(arguments);
    }
    return generate(arguments);
}

} // namespace

int main(int argc, char **argv) { return programs::run_program(kProgram, kHelp, argc, argv, run); }
