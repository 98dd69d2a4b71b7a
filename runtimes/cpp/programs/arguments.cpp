#include "arguments.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace programs {
namespace {

constexpr std::uint64_t kMaxCount = INT32_MAX;

bool contains(const std::vector<std::string> &names, const std::string &name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

// Whether it is all that is asked for.
bool print_about(const char *name, const char *help, int argc, char **argv) {
    for (int at = 1; at < argc; ++at) {
        const std::string argument = argv[at];
        if (argument == "--help" || argument == "-h") {
            std::fputs(help, stdout);
            return true;
        }
        if (argument == "--version") {
            std::printf("%s %s\n", name, minit2i_version());
            return true;
        }
    }
    return false;
}

// What is printed waits in a buffer, whose last write may fail.
void flush_standard_output() {
    errno = 0;
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
        const std::string reason = errno != 0 ? std::string(": ") + std::strerror(errno) : "";
        throw std::runtime_error("standard output cannot be written" + reason);
    }
}

} // namespace

const std::vector<std::string> kModelOptions{"--provider", "--plugin",  "--precision",
                                             "--device",   "--threads", "--cache"};

Arguments::Arguments(int argc, char **argv, const std::vector<std::string> &names,
                     const std::vector<std::string> &flags,
                     const std::vector<std::string> &repeatable) {
    bool options_ended = false;
    for (int at = 1; at < argc; ++at) {
        const std::string argument = argv[at];
        // A single - is standard input.
        if (options_ended || argument.size() < 2 || argument[0] != '-') {
            positionals_.push_back(argument);
            continue;
        }
        if (argument == "--") {
            options_ended = true;
            continue;
        }
        const std::size_t equals = argument.find('=');
        const std::string name = argument == "-o" ? "--output" : argument.substr(0, equals);
        if (has(name) && !contains(repeatable, name)) {
            throw UsageError("option " + name + " is given twice; give it once");
        }
        if (contains(flags, name) && equals == std::string::npos) {
            values_[name].push_back("");
        } else if (!contains(names, name)) {
            throw UsageError("option " + argument + " is unknown; see --help");
        } else if (equals != std::string::npos) {
            values_[name].push_back(argument.substr(equals + 1));
        } else if (at + 1 == argc) {
            throw UsageError("option " + argument + " expects a value");
        } else {
            values_[name].push_back(argv[++at]);
        }
    }
}

std::string Arguments::value(const std::string &name, const std::string &otherwise) const {
    const auto entry = values_.find(name);
    return entry == values_.end() ? otherwise : entry->second.front();
}

std::vector<std::string> Arguments::values(const std::string &name) const {
    const auto entry = values_.find(name);
    return entry == values_.end() ? std::vector<std::string>() : entry->second;
}

double Arguments::number(const std::string &name, double otherwise) const {
    return has(name) ? parse_number(name, value(name)) : otherwise;
}

std::int32_t Arguments::count(const std::string &name) const {
    const std::uint64_t result = parse_unsigned(name, value(name, "0"));
    if (result > kMaxCount) {
        throw UsageError(name + " is " + std::to_string(result) + ", but at most " +
                         std::to_string(kMaxCount) + " is possible");
    }
    return static_cast<std::int32_t>(result);
}

double parse_number(const std::string &name, const std::string &text) {
    char *end = nullptr;
    const double result = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(result - result == 0.0)) {
        throw UsageError(name + " is '" + text + "', but a finite number is needed");
    }
    return result;
}

std::uint64_t parse_unsigned(const std::string &name, const std::string &text) {
    char *end = nullptr;
    errno = 0;
    const unsigned long long result = std::strtoull(text.c_str(), &end, 10);
    // The C function would take a minus sign and wrap around.
    const bool starts_with_digit = !text.empty() && text[0] >= '0' && text[0] <= '9';
    if (!starts_with_digit || *end != '\0' || errno != 0) {
        throw UsageError(name + " is '" + text + "', but an integer from 0 to 2**64 - 1 is needed");
    }
    return result;
}

std::vector<std::string> split_commas(const std::string &text) {
    std::vector<std::string> parts;
    for (std::size_t start = 0; start <= text.size();) {
        const std::size_t end = std::min(text.find(',', start), text.size());
        parts.push_back(text.substr(start, end - start));
        start = end + 1;
    }
    return parts;
}

minit2i::ModelOptions model_options(const Arguments &arguments, const char *program) {
    minit2i::ModelOptions options;
    options.provider = arguments.value("--provider", "cpu");
    if (arguments.has("--plugin")) {
        options.plugin = arguments.value("--plugin");
    }
    if (arguments.has("--precision")) {
        options.precision = arguments.value("--precision");
    }
    options.device = arguments.count("--device");
    options.num_threads = arguments.count("--threads");
    if (arguments.has("--cache")) {
        options.cache = arguments.value("--cache");
    }
    if (arguments.has("--cuda-graph")) {
        options.cuda_graph = arguments.value("--cuda-graph");
    }
    options.on_warning = [program](const std::string &text) {
        std::fprintf(stderr, "%s: warning: %s\n", program, text.c_str());
    };
    return options;
}

int run_program(const char *name, const char *help, int argc, char **argv,
                int (*body)(int argc, char **argv)) {
    try {
        const int code = print_about(name, help, argc, argv) ? 0 : body(argc, argv);
        flush_standard_output();
        return code;
    } catch (const UsageError &error) {
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
