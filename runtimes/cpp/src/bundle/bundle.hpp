// A bundle on disk: opened with its sizes checked, verified hash by hash.
#pragma once

#include "bundle/manifest.hpp"
#include "bundle/table.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>

namespace minit2i {

using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

class Bundle {
public:
    explicit Bundle(const std::string &path);

    // Hashes every file, the manifest first.
    void verify(const Progress &progress) const;

    // By its name among the manifest's graphs, or kLateGraph.
    const GraphInfo &graph(const std::string &name) const;
    std::filesystem::path tokenizer_path() const;
    // A table of the bundle by its name.
    Table table(const std::string &name) const;
    // A preset; an empty name is the default one.
    const Preset &preset(const std::string &name) const;

    std::filesystem::path path; // absolute, links resolved
    Manifest manifest;
    std::string digest; // sha256 of manifest.json
};

} // namespace minit2i
