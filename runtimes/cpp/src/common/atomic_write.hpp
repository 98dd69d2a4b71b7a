// Files that are complete or not there. Knows none of the library's failures, so that the programs
// share it.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace minit2i {

// What a file or folder is called beside its place until it is complete: with the machine, because
// containers on a shared disk often have the same pid, and another name for every call.
std::string partial_name(const std::filesystem::path &path);

// Writes beside the place, syncs, then renames. Returns the errno of what failed, 0 if nothing did.
int write_atomically(const std::filesystem::path &path, std::string_view bytes);

// Whether an errno is of a full or broken disk; any other is about the place.
bool is_disk_error(int reason);

} // namespace minit2i
