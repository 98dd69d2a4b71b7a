/* The devices, the driver and the errors. Sizes are those of an H200. */
#include "standin.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

static __thread int current_device;
static __thread cudaError_t last_error;

static int num_devices(void) { return (int)standin_setting("CUDA_STANDIN_DEVICES", 1); }

static int driver_version(void) {
    return (int)standin_setting("CUDA_STANDIN_DRIVER", STANDIN_RUNTIME_VERSION);
}

int standin_device_error(void) {
    /* A driver serves every runtime of its major version; where there is none, its version is 0. */
    if (driver_version() / 1000 < STANDIN_RUNTIME_VERSION / 1000)
        return cudaErrorInsufficientDriver;
    return num_devices() == 0 ? cudaErrorNoDevice : cudaSuccess;
}

static cudaError_t keep(cudaError_t error) {
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = standin_device_error() ? 0 : num_devices();
    return keep(standin_device_error());
}

cudaError_t cudaGetDevice(int *device) {
    *device = current_device;
    return keep(standin_device_error());
}

cudaError_t cudaSetDevice(int device) {
    if (standin_device_error())
        return keep(standin_device_error());
    if (device < 0 || device >= num_devices())
        return keep(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *result, int device) {
    if (standin_device_error())
        return keep(standin_device_error());
    if (device < 0 || device >= num_devices())
        return keep(cudaErrorInvalidDevice);
    const long capability = standin_setting("CUDA_STANDIN_CAPABILITY", 90);
    memset(result, 0, sizeof *result);
    snprintf(result->name, sizeof result->name, "stand-in of an NVIDIA GPU");
    result->major = (int)capability / 10;
    result->minor = (int)capability % 10;
    result->totalGlobalMem = (size_t)standin_setting("CUDA_STANDIN_MEMORY_MB", 141L << 10) << 20;
    result->multiProcessorCount = 132;
    result->warpSize = 32;
    result->maxThreadsPerBlock = 1024;
    result->maxThreadsDim[0] = result->maxThreadsDim[1] = 1024;
    result->maxThreadsDim[2] = 64;
    result->maxGridSize[0] = 2147483647;
    result->maxGridSize[1] = result->maxGridSize[2] = 65535;
    result->maxThreadsPerMultiProcessor = 2048;
    result->maxBlocksPerMultiProcessor = 32;
    result->regsPerBlock = result->regsPerMultiprocessor = 65536;
    result->sharedMemPerBlock = 48 << 10;
    result->sharedMemPerBlockOptin = 227 << 10;
    result->sharedMemPerMultiprocessor = 228 << 10;
    result->reservedSharedMemPerBlock = 1 << 10;
    result->totalConstMem = 64 << 10;
    result->textureAlignment = 512;
    result->l2CacheSize = 50 << 20;
    result->canMapHostMemory = result->concurrentKernels = result->unifiedAddressing = 1;
    result->managedMemory = result->memoryPoolsSupported = result->cooperativeLaunch = 1;
    result->clusterLaunch = 1;
    return cudaSuccess;
}

static int attribute_of(const struct cudaDeviceProp *device, enum cudaDeviceAttr name) {
    switch (name) {
    case cudaDevAttrComputeCapabilityMajor:
        return device->major;
    case cudaDevAttrComputeCapabilityMinor:
        return device->minor;
    case cudaDevAttrMultiProcessorCount:
        return device->multiProcessorCount;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        return (int)device->sharedMemPerBlock;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return (int)device->sharedMemPerBlockOptin;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return (int)device->sharedMemPerMultiprocessor;
    case cudaDevAttrWarpSize:
        return device->warpSize;
    case cudaDevAttrMaxThreadsPerBlock:
        return device->maxThreadsPerBlock;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        return device->maxThreadsPerMultiProcessor;
    default:
        return -1;
    }
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr name, int device) {
    struct cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess)
        return error;
    *value = attribute_of(&properties, name);
    if (*value >= 0)
        return cudaSuccess;
    /* Questions of whether the device can do something. */
    standin_event("attribute %d", (int)name);
    *value = 1;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = driver_version();
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = STANDIN_RUNTIME_VERSION;
    return cudaSuccess;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }

cudaError_t cudaGetLastError(void) {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
        return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    case cudaErrorStreamCaptureUnsupported:
        return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
        return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureImplicit:
        return "cudaErrorStreamCaptureImplicit";
    default:
        return "cudaErrorUnknown";
    }
}

/* The texts of CUDA, so that what a person reads is what the real library would say. */
const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureImplicit:
        return "operation would make the legacy stream depend on a capturing blocking stream";
    default:
        return "unknown error";
    }
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *status) {
    *function = NULL;
    if (status != NULL)
        *status = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
