#include "arguments.hpp"

#include "minit2i.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace programs {
namespace {

bool contains(const std::vector<std::string> &names, const std::string &name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

} // namespace

Arguments::Arguments(int argc, char **argv, const std::vector<std::string> &names,
                     const std::vector<std::string> &flags) {
    bool only_words = false;
    for (int at = 1; at < argc; ++at) {
        std::string word = argv[at];
        if (only_words || word.size() < 2 || word[0] != '-') {
            words_.push_back(word);
            continue;
        }
        if (word == "--") {
            only_words = true;
            continue;
        }
        const std::size_t equals = word.find('=');
        const std::string name = word == "-o" ? "--output" : word.substr(0, equals);
        if (contains(flags, name) && equals == std::string::npos) {
            values_[name] = "";
        } else if (!contains(names, name)) {
            throw WrongUse("option " + word + " is unknown; see --help");
        } else if (equals != std::string::npos) {
            values_[name] = word.substr(equals + 1);
        } else if (at + 1 == argc) {
            throw WrongUse("option " + word + " came without its value");
        } else {
            values_[name] = argv[++at];
        }
    }
}

std::string Arguments::value(const std::string &name, const std::string &otherwise) const {
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second;
}

const char *Arguments::pointer(const std::string &name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? nullptr : found->second.c_str();
}

double Arguments::number(const std::string &name, double otherwise) const {
    const auto found = values_.find(name);
    if (found == values_.end()) {
        return otherwise;
    }
    char *end = nullptr;
    const double result = std::strtod(found->second.c_str(), &end);
    if (found->second.empty() || *end != '\0' || !(result - result == 0.0)) {
        throw WrongUse(name + " is '" + found->second + "', but a finite number is needed");
    }
    return result;
}

std::uint64_t Arguments::whole(const std::string &name, const std::string &text) const {
    char *end = nullptr;
    errno = 0;
    const unsigned long long result = std::strtoull(text.c_str(), &end, 10);
    // The C function would take a minus sign and wrap around.
    const bool plain = !text.empty() && text[0] >= '0' && text[0] <= '9';
    if (!plain || *end != '\0' || errno != 0) {
        throw WrongUse(name + " is '" + text + "', but a whole number from 0 is needed");
    }
    return result;
}

std::int32_t thread_count(const Arguments &arguments) {
    const std::uint64_t count = arguments.whole("--threads", arguments.value("--threads", "0"));
    if (count > INT32_MAX) {
        throw WrongUse("--threads is " + std::to_string(count) + ", more than any machine has");
    }
    return static_cast<std::int32_t>(count);
}

int run_program(const char *name, const char *help, int argc, char **argv,
                int (*body)(int argc, char **argv)) {
    for (int at = 1; at < argc; ++at) {
        const std::string word = argv[at];
        if (word == "--help" || word == "-h") {
            std::fputs(help, stdout);
            return 0;
        }
        if (word == "--version") {
            std::printf("%s %s\n", name, minit2i_version());
            return 0;
        }
    }
    try {
        return body(argc, argv);
    } catch (const WrongUse &error) {
        std::fprintf(stderr, "%s: error: %s\n", name, error.what());
        return 2;
    } catch (const minit2i::Error &error) {
        std::fprintf(stderr, "%s: error: %s\n", name, error.what());
        return error.status == MINIT2I_ERROR_USAGE ? 2 : 1;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s: error: %s\n", name, error.what());
        return 1;
    }
}

} // namespace programs
