// Command-line words: options with a value, flags, and the rest in order.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace programs {

// The user named something wrong; the program exits 2.
class WrongUse : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

class Arguments {
public:
    // names lists the options that take a value, flags those that take none.
    Arguments(int argc, char **argv, const std::vector<std::string> &names,
              const std::vector<std::string> &flags);

    bool has(const std::string &name) const { return values_.count(name) != 0; }
    std::string value(const std::string &name, const std::string &otherwise = "") const;
    // The option's value, or null where it was not given: what the C functions take.
    const char *pointer(const std::string &name) const;
    double number(const std::string &name, double otherwise) const;
    std::uint64_t whole(const std::string &name, const std::string &text) const;
    const std::vector<std::string> &words() const { return words_; }

private:
    std::map<std::string, std::string> values_;
    std::vector<std::string> words_;
};

// The value of --threads, 0 where it was not given.
std::int32_t thread_count(const Arguments &arguments);

// Runs a program's body; prints one line on failure and returns the exit code.
int run_program(const char *name, const char *help, int argc, char **argv,
                int (*body)(int argc, char **argv));

} // namespace programs
