// Prints which forms of 8-bit products saturate here, and then the warnings for a bundle's graphs
// as if both did. Usage: int8_probe BUNDLE

#include "engine/int8_probe.hpp"
#include "common/failure.hpp"

#include <cstdio>

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: int8_probe BUNDLE\n");
        return 2;
    }
    try {
        const minit2i::SaturatingForms forms = minit2i::saturating_forms();
        std::printf("dynamic %s\nstatic %s\n", forms.is_dynamic_wrong ? "wrong" : "right",
                    forms.is_static_wrong ? "wrong" : "right");
        const minit2i::Bundle bundle(argv[1]);
        for (const auto &[name, graph] : bundle.manifest.graphs) {
            const std::string text = minit2i::saturation_warning(bundle, name, {true, true});
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
