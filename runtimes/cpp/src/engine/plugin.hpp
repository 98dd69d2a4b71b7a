// Plugins of ONNX Runtime: libraries that bring an execution provider.
#pragma once

#include "engine/ort_api.hpp"
#include "engine/provider.hpp"
#include "engine/provider_options.hpp"

namespace minit2i {

// Registers a plugin's library, once a process, and checks that it finds the chosen device. It then
// stays loaded to the end of the process. ort_api is what load_ort_api returned.
void load_plugin(const ProviderChoice &choice, int ort_api);

// Assigns a session to the chosen device of a loaded plugin.
void append_plugin(Ort::SessionOptions &options, const ProviderChoice &choice,
                   const OptionPairs &settings);

} // namespace minit2i
