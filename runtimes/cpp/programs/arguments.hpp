// Command-line arguments: options with a value, flags, and the positional ones in order.
#pragma once

#include "minit2i.hpp"

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace programs {

// An argument is wrong; the program exits 2.
class UsageError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

class Arguments {
public:
    // names lists the options that take a value, flags those that take none, repeatable those of
    // names that may be given several times.
    Arguments(int argc, char **argv, const std::vector<std::string> &names,
              const std::vector<std::string> &flags,
              const std::vector<std::string> &repeatable = {});

    bool has(const std::string &name) const { return values_.count(name) != 0; }
    std::string value(const std::string &name, const std::string &otherwise = "") const;
    // All values of an option, in order.
    std::vector<std::string> values(const std::string &name) const;
    double number(const std::string &name, double otherwise) const;
    // The option's value from 0 to a limit, 0 without the option.
    std::int32_t count(const std::string &name) const;
    const std::vector<std::string> &positionals() const { return positionals_; }

private:
    std::map<std::string, std::vector<std::string>> values_;
    std::vector<std::string> positionals_;
};

// A decimal number from 0 to 2**64 - 1; name is the option's, for the error.
std::uint64_t parse_unsigned(const std::string &name, const std::string &text);

// A finite number.
double parse_number(const std::string &name, const std::string &text);

std::vector<std::string> split_commas(const std::string &text);

// Options that both programs take, each with a value.
extern const std::vector<std::string> kModelOptions;

minit2i::ModelOptions model_options(const Arguments &arguments, const char *program);

// Runs a program's body; prints one line on failure and returns the exit code.
int run_program(const char *name, const char *help, int argc, char **argv,
                int (*body)(int argc, char **argv));

} // namespace programs
