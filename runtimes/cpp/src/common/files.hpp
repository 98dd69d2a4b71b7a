// Reads, hashes and writes complete files.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace minit2i {

// The bytes of a file; false where it cannot be read.
bool read_file(const std::filesystem::path &path, std::string &bytes);

// sha256 of a file without loading it at once; false where it cannot be read.
bool hash_file(const std::filesystem::path &path, std::string &digest);

// Writes beside the place, then renames: the file is complete or not there.
void write_file(const std::filesystem::path &path, std::string_view bytes);

} // namespace minit2i
