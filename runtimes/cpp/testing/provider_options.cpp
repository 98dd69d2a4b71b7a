// Prints what each graph of a bundle is opened with, as JSON: {graph: [[provider, {option: value}],
// ..], ..}. Usage: provider_options BUNDLE PROVIDER PRECISION DEVICE THREADS

#include "engine/provider_options.hpp"
#include "bundle/bundle.hpp"
#include "common/failure.hpp"
#include "common/json.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

minit2i::Json options_of(const minit2i::Bundle &bundle, const std::string &graph,
                         const minit2i::ProviderChoice &choice, int num_threads) {
    minit2i::Json result = minit2i::Json::array();
    for (const auto &[ep, pairs] : minit2i::provider_options(
             choice, num_threads, bundle.graph(graph), bundle.manifest, false)) {
        minit2i::Json values = minit2i::Json::object();
        for (const auto &[name, value] : pairs) {
            values[name] = value;
        }
        result.push_back(minit2i::Json::array({ep, values}));
    }
    return result;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 6) {
        std::fprintf(stderr, "usage: provider_options BUNDLE PROVIDER PRECISION DEVICE THREADS\n");
        return 2;
    }
    try {
        const minit2i::Bundle bundle(argv[1]);
        const std::string name = argv[2];
        // Its library is not loaded for this.
        const char *plugin = name == "openvino" || name == "tensorrt-rtx" ? "plugin.so" : nullptr;
        const char *precision = std::string(argv[3]).empty() ? nullptr : argv[3];
        const minit2i::ProviderChoice choice =
            minit2i::checked_choice(argv[2], plugin, precision, std::atoi(argv[4]), nullptr);
        minit2i::Json result = minit2i::Json::object();
        for (const auto &[graph, info] : bundle.manifest.graphs) {
            result[graph] = options_of(bundle, graph, choice, std::atoi(argv[5]));
        }
        if (bundle.manifest.after_switch) {
            const std::string graph = minit2i::kAfterSwitchGraph;
            result[graph] = options_of(bundle, graph, choice, std::atoi(argv[5]));
        }
        std::puts(result.dump().c_str());
    } catch (const minit2i::Failure &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
