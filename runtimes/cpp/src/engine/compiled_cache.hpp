// Where what is compiled of a graph is kept, as runtimes/compiled_cache.py says: one folder for all
// that the result depends on. The folders are Python's, so that both languages share entries.
#pragma once

#include "bundle/bundle.hpp"

#include <filesystem>
#include <string>

namespace minit2i {

// The folder in a cache for a graph on provider cpu, made where it is missing. Throws a usage
// failure if the cache cannot be written.
std::filesystem::path cache_folder(const std::filesystem::path &root, const Bundle &bundle,
                                   const std::string &graph);

} // namespace minit2i
