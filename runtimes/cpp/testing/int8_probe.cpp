// Prints which forms of 8-bit products saturate here on provider cpu, or on openvino by its plugin,
// and then the warnings for a bundle's graphs as if both did. Usage: int8_probe BUNDLE [PLUGIN]

#include "engine/int8_probe.hpp"
#include "common/failure.hpp"
#include "engine/ort_api.hpp"
#include "engine/plugin.hpp"

#include <cstdio>

namespace {
constexpr minit2i::SaturatingForms kBoth{true, true};
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 3) {
        std::fprintf(stderr, "usage: int8_probe BUNDLE [PLUGIN]\n");
        return 2;
    }
    try {
        const char *plugin = argc == 3 ? argv[2] : nullptr;
        const char *provider = plugin == nullptr ? "cpu" : "openvino";
        const auto choice = minit2i::checked_choice(provider, plugin, nullptr, 0, nullptr);
        if (plugin != nullptr) {
            minit2i::load_plugin(choice, minit2i::load_ort_api());
        }
        const minit2i::SaturatingForms forms = minit2i::saturating_forms(choice);
        std::printf("dynamic %s\nstatic %s\n", forms.is_dynamic_wrong ? "wrong" : "right",
                    forms.is_static_wrong ? "wrong" : "right");
        const minit2i::Bundle bundle(argv[1]);
        for (const auto &[name, graph] : bundle.manifest.graphs) {
            const std::string text =
                minit2i::saturation_warning(bundle, name, provider, [] { return kBoth; });
            if (!text.empty()) {
                std::printf("%s: %s\n", name.c_str(), text.c_str());
            }
        }
    } catch (const minit2i::Failure &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
