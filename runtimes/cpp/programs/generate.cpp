// minit2i-generate: prompts to pictures. Written over minit2i.hpp only.

#include "arguments.hpp"
#include "files.hpp"
#include "minit2i.hpp"
#include "npy.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <optional>

namespace {

constexpr char kHelp[] = R"(usage: minit2i-generate [options] BUNDLE PROMPT -o FILE.png

Paint one picture of a prompt for each seed and write it as PNG, with what made
it in text fields.

  -o, --output FILE.png  the picture; of several: FILE-SEED.png each
  --seed N[,N..]         seeds of the noise, 0 (default) to 2**64 - 1
  --negative TEXT        prompt to move away from, in place of no prompt
  --preset NAME          table and guidance that belong together
  --table NAME           a table of the bundle, or a .json file
  --guidance G           guidance scale; 1 is none
  --interval START,END   guide only rows with START <= t <= END
  --noise FILE.npy       float32 unit normal noise, [3, H, W] or
                         [pictures, 3, H, W], in place of the seeds'
  --save-state FILE.npy  float32 [pictures, 3, H, W] before rounding, -1 to 1
  --provider NAME        cpu (default), cuda, tensorrt, openvino or tensorrt-rtx
  --plugin PATH          library of the provider openvino or tensorrt-rtx
  --precision NAME       fp32 (default) or bf16, of the provider openvino
  --threads N            CPU threads; 0 (default) is one for each core
  --verify               hash every file of the bundle first
  --json                 print one JSON object a picture, in place of text
  --version              print the version

Exit codes: 0 done, 2 wrong use, 1 anything else.
)";

void warn(void *, const char *text) {
    std::fprintf(stderr, "minit2i-generate: warning: %s\n", text);
}

// user_data counts the rows of the table.
int show_progress(void *user_data, std::uint64_t done, std::uint64_t total) {
    *static_cast<std::uint64_t *>(user_data) = total;
    if (isatty(STDERR_FILENO) != 0) {
        std::fprintf(stderr, "\rrow %llu/%llu%s", static_cast<unsigned long long>(done),
                     static_cast<unsigned long long>(total), done == total ? "\n" : "");
    }
    return 0;
}

std::string quoted(const std::string &text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            result += '\\';
        }
        // No other control character can stand in a name that a terminal gave.
        result += c == '\n' ? std::string("\\n") : std::string(1, c);
    }
    return result + "\"";
}

std::vector<std::string> split(const std::string &text) {
    std::vector<std::string> parts;
    for (std::size_t start = 0; start <= text.size();) {
        const std::size_t end = std::min(text.find(',', start), text.size());
        parts.push_back(text.substr(start, end - start));
        start = end + 1;
    }
    return parts;
}

std::vector<std::uint64_t> wanted_seeds(const programs::Arguments &arguments) {
    std::vector<std::uint64_t> seeds;
    for (const std::string &part : split(arguments.value("--seed", "0"))) {
        seeds.push_back(arguments.whole("--seed", part));
    }
    return seeds;
}

void set_interval(const programs::Arguments &arguments, minit2i_generate_params &params) {
    if (!arguments.has("--interval")) {
        return;
    }
    const std::vector<std::string> ends = split(arguments.value("--interval"));
    char *rest[2] = {};
    if (ends.size() == 2 && !ends[0].empty() && !ends[1].empty()) {
        params.interval_start = std::strtod(ends[0].c_str(), &rest[0]);
        params.interval_end = std::strtod(ends[1].c_str(), &rest[1]);
    }
    if (rest[0] == nullptr || *rest[0] != '\0' || *rest[1] != '\0' ||
        !std::isfinite(params.interval_start) || !std::isfinite(params.interval_end)) {
        throw programs::WrongUse("--interval is '" + arguments.value("--interval") +
                                 "', but START,END is needed, for example 0.1,0.9");
    }
}

// Noise of [3, H, W] stands for one picture; without --seed it also says how many there are.
std::vector<float> wanted_noise(const programs::Arguments &arguments, std::size_t size,
                                std::vector<std::uint64_t> &seeds) {
    programs::Shape shape;
    std::vector<float> noise = programs::read_npy(arguments.value("--noise"), shape);
    if (shape.size() == 3) {
        shape.insert(shape.begin(), 1);
    }
    if (shape.size() == 4 && shape[0] > 0 && !arguments.has("--seed")) {
        seeds.assign(shape[0], 0);
    }
    if (shape != programs::Shape{seeds.size(), 3, size, size}) {
        const std::string side = std::to_string(size);
        throw programs::WrongUse(arguments.value("--noise") + ": has another shape than [" +
                                 std::to_string(seeds.size()) + ", 3, " + side + ", " + side + "]");
    }
    return noise;
}

std::string picture_path(const std::string &output, std::uint64_t seed, std::size_t index,
                         const std::vector<std::uint64_t> &seeds, bool has_seeds) {
    if (seeds.size() == 1) {
        return output;
    }
    const std::uint64_t number = has_seeds ? seed : index;
    return output.substr(0, output.size() - 4) + "-" + std::to_string(number) + ".png";
}

void check_arguments(const programs::Arguments &arguments) {
    if (arguments.words().size() != 2) {
        throw programs::WrongUse(std::to_string(arguments.words().size()) +
                                 " words came, but BUNDLE and PROMPT are needed (quotes around "
                                 "the prompt)");
    }
    if (!arguments.has("--output")) {
        throw programs::WrongUse("-o FILE.png is missing");
    }
    programs::check_suffix(arguments.value("--output"), ".png");
    if (arguments.has("--save-state")) {
        programs::check_suffix(arguments.value("--save-state"), ".npy");
    }
}

void write_pictures(const programs::Arguments &arguments, const minit2i::Pictures &pictures,
                    const std::vector<std::uint64_t> &seeds, std::uint64_t num_rows) {
    const std::string output = arguments.value("--output");
    for (std::size_t index = 0; index < pictures.count(); ++index) {
        const std::string path = picture_path(output, seeds[index], index, seeds,
                                              arguments.has("--seed") || !arguments.has("--noise"));
        pictures.save_png(index, path);
        if (arguments.has("--json")) {
            std::printf("{\"path\": %s, \"table\": %s, \"guidance\": %.17g, \"rows\": %llu, "
                        "\"step_seconds\": %.6f}\n",
                        quoted(path).c_str(), quoted(pictures.table()).c_str(),
                        pictures.guidance(), static_cast<unsigned long long>(num_rows),
                        pictures.step_seconds());
            continue;
        }
        std::printf("%s  %s, guidance %g, %.2f s\n", path.c_str(), pictures.table().c_str(),
                    pictures.guidance(), pictures.step_seconds());
    }
    if (arguments.has("--save-state")) {
        const programs::Shape shape{pictures.count(), 3, pictures.size(), pictures.size()};
        programs::write_file(arguments.value("--save-state"),
                             programs::npy_bytes(pictures.state(), shape));
    }
}

int run(int argc, char **argv) {
    const programs::Arguments arguments(
        argc, argv,
        {"--output", "--seed", "--negative", "--preset", "--table", "--guidance", "--interval",
         "--noise", "--save-state", "--provider", "--plugin", "--precision", "--threads"},
        {"--verify", "--json"});
    check_arguments(arguments);
    minit2i_open_params open = minit2i::open_params();
    open.provider = arguments.pointer("--provider");
    open.plugin = arguments.pointer("--plugin");
    open.precision = arguments.pointer("--precision");
    open.num_threads = programs::thread_count(arguments);
    open.on_warning = warn;
    // Prompts are encoded once a run.
    open.lean = 1;
    minit2i_generate_params params = minit2i::generate_params();
    std::vector<std::uint64_t> seeds = wanted_seeds(arguments);
    params.guidance = arguments.number("--guidance", params.guidance);
    set_interval(arguments, params);
    minit2i::Client client(arguments.words()[0], open);
    if (arguments.has("--verify")) {
        client.verify();
    }
    std::vector<float> noise;
    if (arguments.has("--noise")) {
        noise = wanted_noise(arguments, static_cast<std::size_t>(client.info().image_size), seeds);
        params.noise = noise.data();
        params.noise_count = noise.size();
    }
    const std::vector<minit2i_text> prompts(seeds.size(), minit2i::as_text(arguments.words()[1]));
    const std::string negative = arguments.value("--negative");
    const minit2i_text negative_text = minit2i::as_text(negative);
    params.prompts = prompts.data();
    params.seeds = seeds.data();
    params.num_pictures = seeds.size();
    params.negative = arguments.has("--negative") ? &negative_text : nullptr;
    params.preset = arguments.pointer("--preset");
    params.table = arguments.pointer("--table");
    std::uint64_t num_rows = 0;
    params.on_progress = show_progress;
    params.progress_data = &num_rows;
    const minit2i::Pictures pictures = client.generate(params);
    write_pictures(arguments, pictures, seeds, num_rows);
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    return programs::run_program("minit2i-generate", kHelp, argc, argv, run);
}
