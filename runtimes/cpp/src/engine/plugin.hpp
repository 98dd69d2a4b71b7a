// Plugins of ONNX Runtime: libraries that bring an execution provider.
#pragma once

#include "engine/provider.hpp"

#include <onnxruntime_cxx_api.h>

#include <string>

namespace minit2i {

// Registers a plugin's library, once a process, and checks that it finds a device of its kind.
// It then stays loaded to the end of the process.
void load_plugin(const Provider &provider, const std::string &path);

// Gives the first device of a loaded plugin the work of a session.
void append_plugin(Ort::SessionOptions &options, const Provider &provider,
                   const PluginOptions &settings);

} // namespace minit2i
