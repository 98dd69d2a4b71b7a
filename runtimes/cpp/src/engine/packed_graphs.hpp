// Graphs in a cache, optimized and with their weights packed for the CPU's kernels: the library
// maps these in place of packing weights into new memory. As
// runtimes/onnxruntime/packed_graphs.py, which says how an entry is made and when it counts.
#pragma once

#include "common/callbacks.hpp"
#include "engine/ort_api.hpp"

#include <chrono>
#include <filesystem>
#include <functional>

namespace minit2i {

// Longer than any graph of these models takes to write.
constexpr std::chrono::seconds kCacheWait(120);

// Opens a file with the options as they are then set.
using OpenSession =
    std::function<Ort::Session(const std::filesystem::path &file, Ort::SessionOptions &options)>;

// graph: the bundle's file; folder: of the cache, for this graph, library and processor; options:
// of the session; wait: for another process that writes the entry. An entry that is corrupt or does
// not open is made anew, and warn then gets a line. Throws a usage failure if the cache cannot be
// written or has too little room, and a runtime failure if the disk is full or the wait too long.
Ort::Session open_packed(const OpenSession &open, const std::filesystem::path &graph,
                         const std::filesystem::path &folder, const Ort::SessionOptions &options,
                         const Warn &warn, std::chrono::seconds wait);

} // namespace minit2i
