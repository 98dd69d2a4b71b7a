#include "bundle/bundle.hpp"

#include "common/failure.hpp"
#include "common/files.hpp"
#include "common/json.hpp"
#include "common/sha256.hpp"

#include <algorithm>

namespace minit2i {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMaxManifestBytes = 16 << 20;

[[noreturn]] void fail_no_bundle(const std::string &folder) {
    fail_bundle(folder + ": no bundle there (" + kManifestName +
                " is missing); name a folder that minit2i export made");
}

std::string read_manifest_bytes(const fs::path &folder) {
    const fs::path path = folder / kManifestName;
    std::error_code error;
    const std::uintmax_t size = fs::file_size(path, error);
    if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
        fail_no_bundle(folder.string());
    }
    if (!error && size > kMaxManifestBytes) {
        fail_bundle(path.string() + ": too large for a manifest, " + std::to_string(size) +
                    " bytes; re-run minit2i export");
    }
    std::string bytes;
    if (error || !read_file(path, bytes)) {
        fail_bundle(path.string() + ": cannot be read");
    }
    return bytes;
}

bool is_inside(const fs::path &path, const fs::path &folder) {
    return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first ==
           folder.end();
}

// Where files are links to if the folder lies in the cache of the Hugging Face hub, else empty. The
// manifest's hashes vouch for the bytes wherever they are.
// Source: huggingface_hub's guide on its cache: models--OWNER--NAME/snapshots/REVISION/FILE is a
// link to models--OWNER--NAME/blobs/HASH.
fs::path hub_blobs(const fs::path &folder) {
    for (fs::path place = folder; place.has_relative_path(); place = place.parent_path()) {
        const std::string owner_and_name = place.parent_path().filename().string();
        if (place.filename() == "snapshots" && owner_and_name.find("--") != std::string::npos) {
            return place.parent_path() / "blobs";
        }
    }
    return {};
}

void check_size(const fs::path &folder, const std::string &name, const FileInfo &info) {
    const fs::path path = folder / name;
    std::error_code error;
    const fs::path resolved = fs::canonical(path, error);
    if (error) {
        fail_bundle(path.string() + ": missing or unreadable; re-run minit2i export");
    }
    if (!is_inside(resolved, folder) && resolved.parent_path() != hub_blobs(folder)) {
        fail_bundle(path.string() + ": leads out of the bundle to " + resolved.string() +
                    "; copy the file itself");
    }
    if (!fs::is_regular_file(resolved, error)) {
        fail_bundle(path.string() + ": not a file; re-run minit2i export");
    }
    const std::uintmax_t size = fs::file_size(resolved, error);
    if (error || size != static_cast<std::uintmax_t>(info.bytes)) {
        fail_bundle(path.string() + ": " + std::to_string(error ? 0 : size) +
                    " bytes but manifest says " + std::to_string(info.bytes) +
                    "; re-run minit2i export");
    }
}

void compare(const std::string &name, const std::string &actual, const std::string &expected) {
    if (actual != expected) {
        fail_bundle(name + ": sha256 " + actual.substr(0, 8) + ".. but manifest says " +
                    expected.substr(0, 8) + "..; re-run minit2i export");
    }
}

template <typename T>
const T &select(const char *what, const std::string &name, const std::map<std::string, T> &from) {
    const auto entry = from.find(name);
    if (entry != from.end()) {
        return entry->second;
    }
    std::string names;
    for (const auto &[known, value] : from) {
        names += (names.empty() ? "" : ", ") + known;
    }
    fail_usage(std::string(what) + " " + quote(name) + " is not in the bundle; it has " + names);
}

} // namespace

Bundle::Bundle(const std::string &folder) {
    std::error_code error;
    path = fs::weakly_canonical(folder, error);
    if (error || folder.empty()) {
        fail_no_bundle(folder);
    }
    const std::string data = read_manifest_bytes(path);
    manifest = read_manifest(data, (path / kManifestName).string());
    for (const auto &[name, info] : manifest.files) {
        check_size(path, name, info);
    }
    digest = sha256_hex(data);
}

void Bundle::verify(const Progress &progress) const {
    compare(kManifestName, sha256_hex(read_manifest_bytes(path)), digest);
    std::uint64_t total = 0;
    for (const auto &[name, info] : manifest.files) {
        total += static_cast<std::uint64_t>(info.bytes);
    }
    std::uint64_t done = 0;
    for (const auto &[name, info] : manifest.files) {
        check_size(path, name, info);
        std::string sha256;
        if (!hash_file(path / name, sha256)) {
            fail_bundle((path / name).string() + ": cannot be read");
        }
        compare(name, sha256, info.sha256);
        done += static_cast<std::uint64_t>(info.bytes);
        progress(done, total);
    }
}

const GraphInfo &Bundle::graph(const std::string &name) const {
    if (manifest.after_switch && name == kAfterSwitchGraph) {
        return manifest.after_switch->graph;
    }
    return select("graph", name, manifest.graphs);
}

fs::path Bundle::data_path(const GraphInfo &graph) const {
    const std::string hub_name = graph.path + "_data";
    return path / (manifest.files.count(hub_name) != 0 ? hub_name : graph.path + ".data");
}

fs::path Bundle::tokenizer_path() const {
    return path / manifest.tokenizer_path / "tokenizer.json";
}

Table Bundle::table(const std::string &name) const {
    try {
        return load_table(path / select("table", name, manifest.tables));
    } catch (const JsonError &error) {
        fail_bundle(std::string(error.what()) + "; re-run minit2i export");
    }
}

const Preset &Bundle::preset(const std::string &name) const {
    return select("preset", name.empty() ? manifest.default_preset : name, manifest.presets);
}

} // namespace minit2i
