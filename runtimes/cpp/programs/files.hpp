// Reads and writes complete files.
#pragma once

#include <string>
#include <vector>

namespace programs {

// The bytes of a file, or of standard input for "-".
std::string read_file(const std::string &path);

// The texts of a file, one per line; "-" is standard input.
std::vector<std::string> read_lines(const std::string &path);

// Throws what write_file would for a folder that is missing or may not be written: before the work.
void check_writable(const std::string &path);

// Writes beside the place, syncs, then renames. Throws UsageError for a wrong place, and another
// error where the disk is full or broken.
void write_file(const std::string &path, const std::string &bytes);

// Refuses a name without the suffix.
void check_suffix(const std::string &path, const std::string &suffix);

} // namespace programs
