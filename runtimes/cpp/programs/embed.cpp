// minit2i-embed: texts to the text encoder's embeddings. Written over minit2i.hpp only.

#include "arguments.hpp"
#include "files.hpp"
#include "minit2i.hpp"
#include "npy.hpp"

#include <cstdio>

namespace {

constexpr char kHelp[] = R"(usage: minit2i-embed [options] BUNDLE TEXT... -o FILE.npz

Embed texts with a bundle's text encoder.

  -o, --output FILE.npz  values float32 [texts, tokens, width], zero at padding;
                         mask int64 [texts, tokens], 1 at real tokens
  --texts FILE           UTF-8 file in place of TEXT, one a line
  --pooled               add the mean over each text's tokens, of length 1
  --tokens               print token ids, one text a line, in place of -o
  --provider NAME        cpu (default), cuda, tensorrt, openvino or tensorrt-rtx
  --plugin PATH          library of the provider openvino or tensorrt-rtx
  --precision NAME       fp32 (default) or bf16, of the provider openvino
  --threads N            CPU threads; 0 (default) is one for each core
  --version              print the version

Exit codes: 0 done, 2 wrong use, 1 anything else.
)";

void warn(void *, const char *text) { std::fprintf(stderr, "minit2i-embed: warning: %s\n", text); }

std::vector<std::string> lines_of(const std::string &path) {
    std::vector<std::string> lines;
    const std::string text = programs::read_file(path);
    for (std::size_t start = 0; start < text.size();) {
        const std::size_t end = std::min(text.find('\n', start), text.size());
        lines.push_back(text.substr(start, end - start));
        start = end + 1;
    }
    return lines;
}

std::vector<std::string> wanted_texts(const programs::Arguments &arguments) {
    std::vector<std::string> texts(arguments.words().begin() + 1, arguments.words().end());
    if (arguments.has("--texts")) {
        if (!texts.empty()) {
            throw programs::WrongUse("TEXT came with --texts; give one or the other");
        }
        texts = lines_of(arguments.value("--texts"));
    }
    if (texts.empty()) {
        throw programs::WrongUse("no text came; give at least one (it may be empty)");
    }
    return texts;
}

void print_tokens(minit2i::Client &client, const std::vector<std::string> &texts) {
    for (const std::string &text : texts) {
        std::string line;
        for (const std::int64_t id : client.tokenize(text)) {
            line += (line.empty() ? "" : " ") + std::to_string(id);
        }
        std::printf("%s\n", line.c_str());
    }
}

void write_embeddings(const programs::Arguments &arguments, const minit2i::Embeddings &embeddings) {
    const programs::Shape shape{embeddings.num_texts(), embeddings.num_tokens(),
                                embeddings.width()};
    std::vector<std::pair<std::string, std::string>> arrays{
        {"values", programs::npy_bytes(embeddings.values(), shape)},
        {"mask", programs::npy_bytes(embeddings.mask(), {shape[0], shape[1]})}};
    if (arguments.has("--pooled")) {
        arrays.emplace_back("pooled",
                            programs::npy_bytes(embeddings.pooled(), {shape[0], shape[2]}));
    }
    const std::string path = arguments.value("--output");
    programs::write_file(path, programs::npz_bytes(arrays));
    std::printf("%s  values [%zu, %zu, %zu]\n", path.c_str(), shape[0], shape[1], shape[2]);
}

int run(int argc, char **argv) {
    const programs::Arguments arguments(argc, argv,
                                        {"--output", "--texts", "--provider", "--plugin",
                                         "--precision", "--threads"},
                                        {"--pooled", "--tokens"});
    if (arguments.words().empty()) {
        throw programs::WrongUse("BUNDLE is missing; see --help");
    }
    const std::vector<std::string> texts = wanted_texts(arguments);
    if (arguments.has("--tokens") == arguments.has("--output")) {
        throw programs::WrongUse("give one of -o FILE.npz and --tokens");
    }
    if (arguments.has("--output")) {
        programs::check_suffix(arguments.value("--output"), ".npz");
    }
    minit2i_open_params params = minit2i::open_params();
    params.provider = arguments.pointer("--provider");
    params.plugin = arguments.pointer("--plugin");
    params.precision = arguments.pointer("--precision");
    params.num_threads = programs::thread_count(arguments);
    params.on_warning = warn;
    minit2i::Client client(arguments.words()[0], params);
    if (arguments.has("--tokens")) {
        print_tokens(client, texts);
    } else {
        write_embeddings(arguments, client.embed(texts));
    }
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    return programs::run_program("minit2i-embed", kHelp, argc, argv, run);
}
