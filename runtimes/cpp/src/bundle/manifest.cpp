#include "bundle/manifest.hpp"

#include "bundle/manifest_fields.hpp"
#include "common/failure.hpp"
#include "common/json.hpp"
#include "common/sha256.hpp"

#include <algorithm>
#include <cctype>

namespace minit2i {
namespace {

// Version 1 has another step graph: all images share a row, and no pixel is known.
constexpr std::int64_t kFirstVersion = 1;
constexpr std::int64_t kLastVersion = 2;
constexpr char kKind[] = "minit2i-bundle";
constexpr char kChecksum[] = "manifest_sha256";
constexpr std::size_t kMaxPathCharacters = 240;

// Before all else, because another version may have other fields.
std::int64_t check_version(const Json &value) {
    if (!value.is_object()) {
        throw JsonError("a manifest must be a JSON object");
    }
    const Json &kind = member(value, "kind");
    if (kind != kKind) {
        throw JsonError(std::string("kind must be '") + kKind + "', got " + brief(kind));
    }
    const Json &version = member(value, "format_version");
    if (!version.is_number_integer() || version < kFirstVersion || version > kLastVersion) {
        throw JsonError("format_version is " + brief(version) + ", but this program reads 1 and " +
                        "2 (another version of minit2i-deploy may read it)");
    }
    return version.get<std::int64_t>();
}

void check_relative(const std::string &path) {
    bool is_plain = !path.empty() && path.size() <= kMaxPathCharacters && path.back() != '/';
    char last = '/';
    for (const char c : path) {
        const bool is_plain_character = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                                        (c >= '0' && c <= '9') || c == '_' || c == '+' || c == '-';
        // A part may not be empty or end in a dot, which covers . and .. as well.
        is_plain = is_plain &&
                   (is_plain_character || c == '.' || (c == '/' && last != '/' && last != '.'));
        last = c;
    }
    if (!is_plain || last == '.') {
        throw JsonError("file name " + quote(path) +
                        " must be relative, of letters, digits and . _ + - with single slashes "
                        "between");
    }
}

void check_file_names(const Manifest &manifest) {
    std::map<std::string, std::string> folded;
    for (const auto &[path, info] : manifest.files) {
        check_relative(path);
        std::string key = path;
        std::transform(key.begin(), key.end(), key.begin(),
                       [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        const auto [place, is_new] = folded.emplace(key, path);
        if (!is_new) {
            throw JsonError("file names " + quote(place->second) + " and " + quote(path) +
                            " differ in case only");
        }
        if (key == kManifestName || key.substr(0, key.find('/')) == "engines") {
            throw JsonError("file " + quote(path) + " must not be listed in files");
        }
    }
}

void check_listed(const Manifest &manifest, const std::string &where, const std::string &path) {
    if (manifest.files.count(path) == 0) {
        throw JsonError(where + " names " + quote(path) + ", which is not in files");
    }
}

// The rules between fields: names are safe, and everything named is listed.
void check_links(const Manifest &manifest) {
    check_file_names(manifest);
    for (const char *name : {kTextEncoder, kTextAdapter, kStepGraph}) {
        if (manifest.graphs.count(name) == 0 || manifest.graphs.size() != 3) {
            throw JsonError("graphs must be text_adapter, text_encoder and transformer");
        }
    }
    for (const auto &[name, graph] : manifest.graphs) {
        check_listed(manifest, "graphs." + name + ".path", graph.path);
    }
    if (manifest.after_switch) {
        check_listed(manifest, "late.graph.path", manifest.after_switch->graph.path);
    }
    for (const auto &[name, path] : manifest.tables) {
        check_listed(manifest, "tables." + name, path);
    }
    check_listed(manifest, "tokenizer.path", manifest.tokenizer_path + "/tokenizer.json");
    for (const auto &[name, preset] : manifest.presets) {
        if (manifest.tables.count(preset.table) == 0) {
            throw JsonError("presets." + name + " names table " + quote(preset.table) +
                            ", which is not in tables");
        }
    }
    if (manifest.presets.count(manifest.default_preset) == 0) {
        throw JsonError("default_preset " + quote(manifest.default_preset) + " is not in presets");
    }
}

// The checksum is the hash of the manifest's own bytes with the checksum's digits zeroed.
void check_checksum(std::string_view data, const Json &value) {
    const Json &stored = member(value, kChecksum);
    if (!stored.is_string() || !is_sha256(stored.get_ref<const std::string &>())) {
        throw JsonError(std::string(kChecksum) + " is missing or not 64 hexadecimal digits");
    }
    const auto expected = stored.get<std::string>();
    const std::string prefix = std::string("\"") + kChecksum + "\": \"";
    const std::string line = prefix + expected + "\"";
    std::string blank(data);
    for (std::size_t at = blank.find(line); at != std::string::npos;
         at = blank.find(line, at + line.size())) {
        blank.replace(at + prefix.size(), expected.size(), std::string(expected.size(), '0'));
    }
    const std::string actual = sha256_hex(blank);
    if (actual != expected) {
        throw JsonError("sha256 is " + actual.substr(0, 8) + ".. but " + kChecksum + " is " +
                        expected.substr(0, 8) + "..; the file was edited");
    }
}

} // namespace

Manifest read_manifest(std::string_view data, const std::string &where) {
    try {
        const Json value = parse_json(data);
        const std::int64_t version = check_version(value);
        Manifest manifest = decode_manifest(value);
        manifest.format_version = version;
        check_links(manifest);
        check_checksum(data, value);
        return manifest;
    } catch (const JsonError &error) {
        fail_bundle(where + ": " + error.what() + "; re-run minit2i export");
    }
}

} // namespace minit2i
