#include "engine/plugin.hpp"

#include "common/failure.hpp"
#include "engine/session.hpp"
#include "engine/signal_stack.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>

namespace minit2i {

#if ORT_API_VERSION >= 22

namespace {

using Devices = std::vector<const OrtEpDevice *>;

// ONNX Runtime has one environment a process, which holds the plugins and goes with its last owner.
// This one is never given back: a plugin's threads do not outlive its library.
OrtEnv *process_env() {
    static auto *const env = new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "minit2i");
    return *env;
}

// Guards the registration and what depends on it; ONNX Runtime does not.
std::mutex plugin_mutex;

// Path of the library of each ONNX Runtime's name that is registered.
std::map<std::string, std::string> &registered() {
    static auto *const paths = new std::map<std::string, std::string>();
    return *paths;
}

Devices all_devices() {
    const OrtEpDevice *const *first = nullptr;
    std::size_t count = 0;
    Ort::ThrowOnError(Ort::GetApi().GetEpDevices(process_env(), &first, &count));
    return {first, first + count};
}

std::string ep_of(const OrtEpDevice *device) { return Ort::GetApi().EpDevice_EpName(device); }

// A plugin may list further names, such as one for each kind of device.
Devices devices_of(const Provider &provider, const Devices &devices) {
    Devices result;
    for (const OrtEpDevice *device : devices) {
        if (ep_of(device) == provider.ep) {
            result.push_back(device);
        }
    }
    return result;
}

std::string library_path(const Provider &provider, const std::string &path) {
    std::error_code error;
    const std::filesystem::path resolved = std::filesystem::canonical(path, error);
    if (error || !std::filesystem::is_regular_file(resolved, error)) {
        fail_usage("plugin " + path + " is missing or not a file; pass the library of package " +
                   provider.package);
    }
    return resolved.string();
}

std::string describe_mismatch(const Provider &provider, const std::string &path,
                              const Devices &offered) {
    const std::string start = "provider " + provider.name + ": plugin " + path;
    if (offered.empty()) {
        return start + " finds no device here, because it takes those of " + provider.who +
               " only; " + provider.instead;
    }
    std::vector<std::string> names;
    for (const OrtEpDevice *device : offered) {
        names.push_back(ep_of(device));
    }
    return start + " brings " + listed(names) + ", but " + provider.ep +
           " is needed; pass the library of package " + provider.package;
}

// What ONNX Runtime lists after the registration and did not list before.
Devices registered_devices(const Provider &provider, const std::string &path) {
    const Devices before = all_devices();
    Ort::ThrowOnError(Ort::GetApi().RegisterExecutionProviderLibrary(
        process_env(), provider.ep.c_str(), path.c_str()));
    Devices offered;
    for (const OrtEpDevice *device : all_devices()) {
        if (std::find(before.begin(), before.end(), device) == before.end()) {
            offered.push_back(device);
        }
    }
    return offered;
}

void register_plugin(const Provider &provider, const std::string &path) {
    const Devices offered = registered_devices(provider, path);
    if (!devices_of(provider, offered).empty()) {
        registered()[provider.ep] = path;
        return;
    }
    const std::string why = describe_mismatch(provider, path, offered);
    // So that the right library can still come.
    Ort::ThrowOnError(
        Ort::GetApi().UnregisterExecutionProviderLibrary(process_env(), provider.ep.c_str()));
    fail_runtime(why);
}

void check_device_exists(const ProviderChoice &choice) {
    const std::size_t count = devices_of(choice.provider, all_devices()).size();
    if (static_cast<std::size_t>(choice.device) >= count) {
        fail_usage("device is " + std::to_string(choice.device) + ", but provider " +
                   choice.provider.name + " has " + std::to_string(count) +
                   " here, counted from 0");
    }
}

} // namespace

void load_plugin(const ProviderChoice &choice, int ort_api) {
    const Provider &provider = choice.provider;
    if (ort_api < kMinPluginApi) {
        fail_runtime("provider " + provider.name + ": onnxruntime is 1." + std::to_string(ort_api) +
                     ", but plugins need 1." + std::to_string(kMinPluginApi) +
                     " or later; load a newer library, or choose another provider");
    }
    const std::string library = library_path(provider, choice.plugin);
    const std::lock_guard<std::mutex> lock(plugin_mutex);
    const auto known = registered().find(provider.ep);
    if (known == registered().end()) {
        const SignalStackGuard guard;
        try {
            register_plugin(provider, library);
        } catch (const Ort::Exception &error) {
            fail_engine("provider " + provider.name + ": " + choice.plugin +
                            " cannot be loaded as a plugin (the library of package " +
                            provider.package + " is needed)",
                        error);
        }
    } else if (known->second != library) {
        fail_usage("plugin is " + choice.plugin + ", but this process has loaded " + known->second +
                   " for provider " + provider.name + "; pass that one, or use another process");
    }
    check_device_exists(choice);
}

void append_plugin(Ort::SessionOptions &options, const ProviderChoice &choice,
                   const OptionPairs &settings) {
    const OptionPointers all(settings);
    const std::lock_guard<std::mutex> lock(plugin_mutex);
    const Devices devices = devices_of(choice.provider, all_devices());
    Ort::ThrowOnError(Ort::GetApi().SessionOptionsAppendExecutionProvider_V2(
        options, process_env(), &devices.at(static_cast<std::size_t>(choice.device)), 1,
        all.names.data(), all.values.data(), settings.size()));
}

#else

void load_plugin(const ProviderChoice &choice, int) {
    fail_runtime("provider " + choice.provider.name +
                 ": this library was built with the headers of ONNX Runtime 1." +
                 std::to_string(ORT_API_VERSION) + ", but plugins need those of 1." +
                 std::to_string(kMinPluginApi) +
                 " or later; build it with a newer SDK, or choose another provider");
}

void append_plugin(Ort::SessionOptions &, const ProviderChoice &choice, const OptionPairs &) {
    load_plugin(choice, 0);
}

#endif

} // namespace minit2i
