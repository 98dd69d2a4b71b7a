// A bundle on disk: opened with its sizes checked, verified hash by hash.
#pragma once

#include "bundle/manifest.hpp"
#include "bundle/table.hpp"
#include "common/callbacks.hpp"

#include <filesystem>
#include <string>
#include <utility>

namespace minit2i {

class Bundle {
public:
    explicit Bundle(const std::string &path);

    // Hashes every file, the manifest first.
    void verify(const Progress &progress) const;

    // By its name among the manifest's graphs, or kAfterSwitchGraph.
    const GraphInfo &graph(const std::string &name) const;
    // The file with the weights of a graph.
    std::filesystem::path data_path(const GraphInfo &graph) const;
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
