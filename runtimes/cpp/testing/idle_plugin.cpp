// A plugin for the tests: offers the CPU under OpenVINO's name, writes down the options that it
// gets and takes no node, so that ONNX Runtime's own provider computes everything.
//
// MINIT2I_IDLE_RECORD names the file of the options, "name=value" in a line. MINIT2I_IDLE_DEVICES=0
// makes it offer nothing.

#include <onnxruntime_c_api.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <string>

#if ORT_API_VERSION < 23
#error "the test plugin needs ONNX Runtime's headers of 1.23; leave MINIT2I_TEST_PLUGIN off"
#endif

namespace {

const OrtApi *api = nullptr;

struct Factory : OrtEpFactory {
    explicit Factory(const char *name);
    const char *name;
};

struct Ep : OrtEp {
    explicit Ep(const char *name);
    const char *name;
};

const char *factory_name(const OrtEpFactory *self) noexcept {
    return static_cast<const Factory *>(self)->name;
}
const char *ep_name(const OrtEp *self) noexcept { return static_cast<const Ep *>(self)->name; }
const char *vendor(const OrtEpFactory *) noexcept { return "minit2i"; }
std::uint32_t vendor_id(const OrtEpFactory *) noexcept { return 0; }
const char *version(const OrtEpFactory *) noexcept { return "0.1.0"; }
bool is_stream_aware(const OrtEpFactory *) noexcept { return false; }

OrtStatus *supported_devices(OrtEpFactory *self, const OrtHardwareDevice *const *devices,
                             std::size_t num_devices, OrtEpDevice **offered,
                             std::size_t max_offered, std::size_t *num_offered) noexcept {
    *num_offered = 0;
    const char *num_offers = std::getenv("MINIT2I_IDLE_DEVICES");
    if (num_offers != nullptr && std::string(num_offers) == "0") {
        return nullptr;
    }
    for (std::size_t at = 0; at < num_devices && *num_offered < max_offered; ++at) {
        if (api->HardwareDevice_Type(devices[at]) != OrtHardwareDeviceType_CPU) {
            continue;
        }
        OrtStatus *status = api->GetEpApi()->CreateEpDevice(self, devices[at], nullptr, nullptr,
                                                            &offered[*num_offered]);
        if (status != nullptr) {
            return status;
        }
        ++*num_offered;
    }
    return nullptr;
}

OrtStatus *record_options(const OrtSessionOptions *options) {
    const char *path = std::getenv("MINIT2I_IDLE_RECORD");
    if (path == nullptr) {
        return nullptr;
    }
    OrtKeyValuePairs *entries = nullptr;
    OrtStatus *status = api->GetSessionOptionsConfigEntries(options, &entries);
    if (status != nullptr) {
        return status;
    }
    const char *const *names = nullptr;
    const char *const *values = nullptr;
    std::size_t count = 0;
    api->GetKeyValuePairs(entries, &names, &values, &count);
    std::string lines;
    for (std::size_t at = 0; at < count; ++at) {
        // The others are the session's.
        if (std::string(names[at]).rfind("ep.", 0) == 0) {
            lines += std::string(names[at]) + "=" + values[at] + "\n";
        }
    }
    api->ReleaseKeyValuePairs(entries);
    std::ofstream(path, std::ios::app) << lines;
    return nullptr;
}

// As OpenVINO does.
void leave_a_signal_stack() {
    static std::array<char, 65536> memory;
    stack_t stack{};
    stack.ss_sp = memory.data();
    stack.ss_size = memory.size();
    ::sigaltstack(&stack, nullptr);
}

OrtStatus *create_ep(OrtEpFactory *self, const OrtHardwareDevice *const *,
                     const OrtKeyValuePairs *const *, std::size_t num_devices,
                     const OrtSessionOptions *options, const OrtLogger *, OrtEp **ep) noexcept {
    const std::string name = static_cast<Factory *>(self)->name;
    if (name != "OpenVINOExecutionProvider" || num_devices != 1) {
        return api->CreateStatus(ORT_FAIL, "another device was chosen than the exactly named one");
    }
    leave_a_signal_stack();
    *ep = new Ep(static_cast<Factory *>(self)->name);
    return record_options(options);
}

void release_ep(OrtEpFactory *, OrtEp *ep) noexcept { delete static_cast<Ep *>(ep); }

OrtStatus *create_allocator(OrtEpFactory *, const OrtMemoryInfo *, const OrtKeyValuePairs *,
                            OrtAllocator **allocator) noexcept {
    *allocator = nullptr;
    return nullptr;
}

void release_allocator(OrtEpFactory *, OrtAllocator *) noexcept {}

OrtStatus *create_data_transfer(OrtEpFactory *, OrtDataTransferImpl **transfer) noexcept {
    *transfer = nullptr;
    return nullptr;
}

OrtStatus *take_no_node(OrtEp *, const OrtGraph *, OrtEpGraphSupportInfo *) noexcept {
    return nullptr;
}

OrtStatus *compile(OrtEp *, const OrtGraph **, const OrtNode **, std::size_t, OrtNodeComputeInfo **,
                   OrtNode **) noexcept {
    return api->CreateStatus(ORT_FAIL, "nothing was taken, so there is nothing to compile");
}

void release_compiled(OrtEp *, OrtNodeComputeInfo **, std::size_t) noexcept {}

Factory::Factory(const char *label) : OrtEpFactory{}, name(label) {
    ort_version_supported = ORT_API_VERSION;
    GetName = factory_name;
    GetVendor = vendor;
    GetVendorId = vendor_id;
    GetVersion = version;
    GetSupportedDevices = supported_devices;
    CreateEp = create_ep;
    ReleaseEp = release_ep;
    CreateAllocator = create_allocator;
    ReleaseAllocator = release_allocator;
    CreateDataTransfer = create_data_transfer;
    IsStreamAware = is_stream_aware;
}

Ep::Ep(const char *label) : OrtEp{}, name(label) {
    ort_version_supported = ORT_API_VERSION;
    GetName = ep_name;
    GetCapability = take_no_node;
    Compile = compile;
    ReleaseNodeComputeInfos = release_compiled;
}

} // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED OrtStatus *CreateEpFactories(const char *, const OrtApiBase *base, const OrtLogger *,
                                      OrtEpFactory **factories, std::size_t max_factories,
                                      std::size_t *num_factories) {
    api = base->GetApi(ORT_API_VERSION);
    *num_factories = 0;
    // OpenVINO's plugin lists such a name too; it must not be taken for the plain one.
    for (const char *name : {"OpenVINOExecutionProvider.AUTO", "OpenVINOExecutionProvider"}) {
        if (*num_factories < max_factories) {
            factories[(*num_factories)++] = new Factory(name);
        }
    }
    return nullptr;
}

EXPORTED OrtStatus *ReleaseEpFactory(OrtEpFactory *factory) {
    delete static_cast<Factory *>(factory);
    return nullptr;
}
