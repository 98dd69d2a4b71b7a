#include "engine/compiled_cache.hpp"

#include "common/failure.hpp"
#include "common/files.hpp"
#include "common/json.hpp"
#include "common/sha256.hpp"
#include "engine/ort_api.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <set>
#include <sstream>

namespace minit2i {
namespace {

constexpr char kKeyFile[] = "key.json";
constexpr std::size_t kDigits = 20;
// packed_graphs.py's FORM: how entries are made.
constexpr char kPackedForm[] = "1";
// Of /proc/cpuinfo, in order: what kernels are chosen by, as minit2i_deploy/machine.py lists it.
constexpr std::array kFeatures{"amx_bf16",    "amx_int8", "asimd",    "avx2", "avx512_bf16",
                               "avx512_vnni", "avx512f",  "avx_vnni", "bf16", "i8mm"};

struct CpuInfo {
    std::string model;
    std::set<std::string> flags;
};

std::string trimmed(const std::string &text) {
    const std::size_t start = text.find_first_not_of(" \t\r\n");
    const std::size_t end = text.find_last_not_of(" \t\r\n");
    return start == std::string::npos ? "" : text.substr(start, end - start + 1);
}

// Of the first processor.
CpuInfo read_cpu_info() {
    std::string text;
    read_file("/proc/cpuinfo", text);
    CpuInfo info;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        const std::size_t colon = std::min(line.find(':'), line.size());
        const std::string name = trimmed(line.substr(0, colon));
        const std::string value = colon == line.size() ? "" : line.substr(colon + 1);
        if (info.model.empty() && name == "model name") {
            info.model = trimmed(value);
        } else if (info.flags.empty() && (name == "flags" || name == "Features")) {
            std::istringstream words(value);
            for (std::string word; words >> word;) {
                info.flags.insert(word);
            }
        }
    }
    return info;
}

std::string device_name() {
    utsname system{};
    ::uname(&system);
    const CpuInfo info = read_cpu_info();
    std::string name = std::string(system.machine) + " " + info.model;
    for (const char *feature : kFeatures) {
        if (info.flags.count(feature) != 0) {
            name += std::string(" ") + feature;
        }
    }
    return name;
}

std::string cache_key(const Bundle &bundle, const std::string &graph) {
    Json key = {
        {"graph", graph == kAfterSwitchGraph ? kStepGraph : graph},
        {"library", "onnxruntime:cpu"},
        {"version", OrtGetApiBase()->GetVersionString()},
        {"device", device_name()},
        {"form", kPackedForm},
        {"precision", "as the graph"},
    };
    const auto folder = std::filesystem::path(bundle.graph(graph).path).parent_path();
    for (const auto &[name, info] : bundle.manifest.files) {
        if (std::filesystem::path(name).parent_path() == folder) {
            key["sha256 of " + name] = info.sha256;
        }
    }
    // As Python's json.dumps with an indent of 2 and sorted keys.
    return key.dump(2, ' ', true) + "\n";
}

} // namespace

std::filesystem::path cache_folder(const std::filesystem::path &root, const Bundle &bundle,
                                   const std::string &graph) {
    const std::string key = cache_key(bundle, graph);
    const std::filesystem::path folder = root / sha256_hex(key).substr(0, kDigits);
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) {
        fail_usage(folder.string() + ": cannot be made (" + error.message() +
                   "); name a cache folder you can write");
    }
    if (!std::filesystem::exists(folder / kKeyFile, error)) {
        write_file(folder / kKeyFile, key);
    }
    return folder;
}

} // namespace minit2i
