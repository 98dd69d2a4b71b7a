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
// Throws as fail_write.
void write_file(const std::filesystem::path &path, std::string_view bytes);

// Throws for an errno of writing: a runtime failure where the disk is full or broken, else a usage
// failure.
[[noreturn]] void fail_write(const std::filesystem::path &path, int reason);

// Whether a folder's disk has no room, for errors of libraries that do not say so.
bool disk_is_full(const std::filesystem::path &folder);

} // namespace minit2i
