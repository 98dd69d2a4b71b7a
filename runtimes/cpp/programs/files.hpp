// Whole files in and out.
#pragma once

#include <string>

namespace programs {

std::string read_file(const std::string &path);

// Writes beside the place, then renames.
void write_file(const std::string &path, const std::string &bytes);

// Refuses a name without the suffix.
void check_suffix(const std::string &path, const std::string &suffix);

} // namespace programs
