// The manifest: what a runtime must know about a bundle. docs/reference/bundle.md specifies every
// field.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace minit2i {

constexpr char kManifestName[] = "manifest.json";
// common/noise.hpp draws it.
constexpr char kNoiseGenerator[] = "philox4x32-10/box-muller";
constexpr char kTextEncoder[] = "text_encoder";
constexpr char kTextAdapter[] = "text_adapter";
constexpr char kStepGraph[] = "transformer";
// The name here of the second step graph that some bundles have.
constexpr char kAfterSwitchGraph[] = "transformer_after_switch";

// Of an image, in pixels.
struct Size {
    std::int64_t width = 0;
    std::int64_t height = 0;

    std::int64_t area() const { return width * height; }
    std::string text() const { return std::to_string(width) + "x" + std::to_string(height); }
    bool operator==(const Size &other) const {
        return width == other.width && height == other.height;
    }
};

struct ModelInfo {
    Size size;
    std::int64_t patch_size = 0;
    std::int64_t in_channels = 0;
    std::int64_t txt_input_size = 0;
    std::int64_t prompt_length = 0;
    bool is_student = false;
};

// A size of an input, or the name of a free one.
struct Axis {
    std::int64_t size = 0; // 0 where it is free
    std::string name;
};

struct GraphInfo {
    std::string path;
    std::string precision;
    std::map<std::string, std::vector<Axis>> inputs;
};

// A second step graph, which takes the rows from time t on, 0 noise to 1 data. The manifest calls
// it "late".
struct SwitchGraph {
    double t = 0.0;
    GraphInfo graph;
};

struct FileInfo {
    std::string sha256;
    std::int64_t bytes = 0;
};

struct Preset {
    std::string table;
    double guidance = 0.0;
};

struct Manifest {
    std::int64_t format_version = 0;
    // Whether the step graph takes known pixels, and rows of each image.
    bool can_edit() const { return format_version >= 2; }
    ModelInfo model;
    std::map<std::string, GraphInfo> graphs;
    // Of the graphs that are quantized: the form of their weights and products.
    std::map<std::string, std::string> schemes;
    std::optional<SwitchGraph> after_switch;
    std::string tokenizer_path;
    std::map<std::string, FileInfo> files;
    std::map<std::string, std::string> tables;
    std::map<std::string, Preset> presets;
    std::string default_preset;
    double noise_scale = 0.0;
    std::string checkpoint_sha256;
    // The provider whose own operators the graphs hold, which no other runs; empty for any.
    std::string only_for;
    // Scale of guidance that one branch gives, a part of the weights; 0 for two branches.
    double one_pass_guidance = 0.0;
    // The least and the most pixels of a side, where height and width are free.
    std::optional<std::pair<std::int64_t, std::int64_t>> side_bounds;
};

// Reads manifest.json's bytes; where is its path, for the error.
Manifest read_manifest(std::string_view data, const std::string &where);

} // namespace minit2i
