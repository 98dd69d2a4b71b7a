// minit2i-embed: texts to the text encoder's embeddings. Written over minit2i.hpp only.

#include "arguments.hpp"
#include "files.hpp"
#include "minit2i.hpp"
#include "npy.hpp"

#include <unistd.h>

#include <cstdio>
#include <filesystem>

namespace {

constexpr char kProgram[] = "minit2i-embed";
constexpr char kHelp[] = R"(usage: minit2i-embed [options] BUNDLE TEXT... -o FILE

Embed texts with a bundle's text encoder. A single - in place of TEXT reads
texts from standard input, one per line.

  -o, --output FILE      .npz: values float32 [texts, tokens, width], zero at
                         padding; mask int64 [texts, tokens], 1 at real tokens.
                         .npy: one array, that of --pooled-only
  --texts FILE           UTF-8 file in place of TEXT, one per line; - is standard
                         input
  --pooled               add the mean over each text's tokens, of length 1:
                         pooled float32 [texts, width]
  --pooled-only          write that alone
  --tokens               print token ids, one text per line, in place of -o
  --batch N              most texts that the encoder sees at once (default: 32)
  --provider NAME        cpu (default), cuda, tensorrt, openvino or tensorrt-rtx
  --plugin PATH          library of the provider openvino or tensorrt-rtx
  --precision NAME       fp32 (default) or bf16, of openvino; fp32 or tf32, of cuda
  --device N             index of the provider's device, from 0 (default)
  --threads N            CPU threads; 0 (default) is one for each core
  --cache DIR            keep packed weights in a folder, so that the next start is
                         faster; of cpu
  --version              print the version

Exit codes: 0 done, 2 wrong use, 1 anything else.
)";

std::vector<std::string> requested_texts(const programs::Arguments &arguments) {
    std::vector<std::string> texts(arguments.positionals().begin() + 1,
                                   arguments.positionals().end());
    if (arguments.has("--texts") && !texts.empty()) {
        throw programs::UsageError("TEXT and --texts are mutually exclusive");
    }
    if (arguments.has("--texts")) {
        texts = programs::read_lines(arguments.value("--texts"));
    } else if (texts.size() == 1 && texts[0] == "-") {
        texts = programs::read_lines("-");
    }
    if (texts.empty()) {
        throw programs::UsageError("no text given; pass TEXT, --texts FILE, or - for stdin");
    }
    return texts;
}

void print_tokens(const minit2i::Model &model, const std::vector<std::string> &texts) {
    for (const std::string &text : texts) {
        std::string line;
        for (const std::int64_t id : model.tokenize(text)) {
            line += (line.empty() ? "" : " ") + std::to_string(id);
        }
        std::printf("%s\n", line.c_str());
    }
}

minit2i::EmbedOptions embed_options(const programs::Arguments &arguments) {
    minit2i::EmbedOptions options;
    if (arguments.has("--batch")) {
        options.batch_size = static_cast<std::size_t>(arguments.count("--batch"));
    }
    if (isatty(STDERR_FILENO) != 0) {
        options.on_progress = [](std::uint64_t done, std::uint64_t total) {
            // One batch needs no progress.
            if (done < total || total > 32) {
                std::fprintf(stderr, "\rtext %llu/%llu%s", static_cast<unsigned long long>(done),
                             static_cast<unsigned long long>(total), done == total ? "\n" : "");
            }
            return true;
        };
    }
    return options;
}

bool is_npy(const std::string &path) { return std::filesystem::path(path).extension() == ".npy"; }

void check_output(const programs::Arguments &arguments) {
    const std::string path = arguments.value("--output");
    if (is_npy(path) && !arguments.has("--pooled-only")) {
        throw programs::UsageError(path +
                                   ": a .npy file has one array; pass --pooled-only, or name "
                                   "a .npz file");
    }
    if (!is_npy(path)) {
        programs::check_suffix(path, ".npz");
    }
    programs::check_writable(path);
}

void write_embeddings(const programs::Arguments &arguments, const minit2i::Embeddings &embeddings) {
    const programs::Shape shape{embeddings.num_texts(), embeddings.num_tokens(),
                                embeddings.width()};
    const std::string path = arguments.value("--output");
    const bool is_pooled_only = arguments.has("--pooled-only");
    std::vector<std::pair<std::string, std::string>> arrays;
    if (!is_pooled_only) {
        arrays.emplace_back("values", programs::npy_bytes(embeddings.values(), shape));
        arrays.emplace_back("mask", programs::npy_bytes(embeddings.mask(), {shape[0], shape[1]}));
    }
    if (is_pooled_only || arguments.has("--pooled")) {
        arrays.emplace_back("pooled",
                            programs::npy_bytes(embeddings.pooled(), {shape[0], shape[2]}));
    }
    programs::write_file(path, is_npy(path) ? arrays[0].second : programs::npz_bytes(arrays));
    if (is_pooled_only) {
        std::printf("%s  pooled [%zu, %zu]\n", path.c_str(), shape[0], shape[2]);
    } else {
        std::printf("%s  values [%zu, %zu, %zu]\n", path.c_str(), shape[0], shape[1], shape[2]);
    }
}

int run(int argc, char **argv) {
    std::vector<std::string> names{"--output", "--texts", "--batch"};
    names.insert(names.end(), programs::kModelOptions.begin(), programs::kModelOptions.end());
    const programs::Arguments arguments(argc, argv, names,
                                        {"--pooled", "--pooled-only", "--tokens"});
    if (arguments.positionals().empty()) {
        throw programs::UsageError("BUNDLE is missing; see --help");
    }
    if (arguments.has("--tokens") == arguments.has("--output")) {
        throw programs::UsageError("pass exactly one of -o FILE and --tokens");
    }
    if (arguments.has("--output")) {
        check_output(arguments);
    }
    const minit2i::EmbedOptions options = embed_options(arguments);
    const std::vector<std::string> texts = requested_texts(arguments);
    const minit2i::Model model(arguments.positionals()[0],
                               programs::model_options(arguments, kProgram));
    if (arguments.has("--tokens")) {
        print_tokens(model, texts);
    } else {
        write_embeddings(arguments, minit2i::State(model).embed(texts, options));
    }
    return 0;
}

} // namespace

int main(int argc, char **argv) { return programs::run_program(kProgram, kHelp, argc, argv, run); }
