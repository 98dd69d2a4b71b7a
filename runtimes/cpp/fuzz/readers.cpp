// Feeds corrupt manifests, tables and tokenizers to their readers for a bounded time. Each either
// reads or throws; a crash or a sanitizer's report is the failure.
// Usage: fuzz_readers SECONDS FILE... with the files to corrupt.

#include "bundle/manifest.hpp"
#include "bundle/table.hpp"
#include "common/failure.hpp"
#include "text/tokenizer.hpp"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>

namespace {

constexpr std::int64_t kPromptLength = 20;

std::string corrupt(std::string text, std::mt19937 &random) {
    static const std::string marks = "{}[]\",:0123456789-+.eE\\/nulltrue \n\xff\x00";
    const std::size_t count = 1 + random() % 8;
    for (std::size_t i = 0; i < count && !text.empty(); ++i) {
        const std::size_t at = random() % text.size();
        switch (random() % 4) {
        case 0:
            text[at] = marks[random() % marks.size()];
            break;
        case 1:
            text.erase(at, 1 + random() % 20);
            break;
        case 2:
            text.insert(at, text.substr(random() % text.size(), random() % 200));
            break;
        default:
            text.insert(at, 1, static_cast<char>(random() & 0xff));
        }
    }
    return text;
}

void read_all(const std::string &text) {
    try {
        minit2i::read_manifest(text, "manifest");
    } catch (const minit2i::Failure &) {
    }
    try {
        minit2i::read_table(text);
    } catch (const minit2i::JsonError &) {
    }
    try {
        const minit2i::Tokenizer tokenizer =
            minit2i::Tokenizer::read(text, "tokenizer.json", kPromptLength);
        tokenizer.tail(tokenizer.encode("A red\tcircle, \xEF\xAC\x81 \xCC\x81!!", 0));
    } catch (const minit2i::Failure &) {
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s SECONDS FILE...\n", argv[0]);
        return 2;
    }
    std::mt19937 random(0);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(argv[1]));
    std::size_t rounds = 0;
    while (std::chrono::steady_clock::now() < end) {
        for (int file = 2; file < argc; ++file) {
            std::ifstream stream(argv[file], std::ios::binary);
            const std::string content{std::istreambuf_iterator<char>(stream), {}};
            read_all(corrupt(content, random));
        }
        ++rounds;
    }
    std::printf("%zu rounds\n", rounds);
    return 0;
}
