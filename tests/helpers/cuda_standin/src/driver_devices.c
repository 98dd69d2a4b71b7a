/* The devices as the driver tells them without CUDA's runtime library, for minit2i doctor. */
#include "standin.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

int cuInit(unsigned flags) {
    (void)flags;
    const int error = standin_device_error();
    /* Where there is no driver, this library would not be there either. */
    return error == cudaErrorInsufficientDriver ? cudaSuccess : error;
}

int cuDeviceGetCount(int *count) {
    *count = (int)standin_setting("CUDA_STANDIN_DEVICES", 1);
    return 0;
}

int cuDeviceGet(int *device, int index) {
    *device = index;
    return 0;
}

int cuDeviceGetName(char *name, int length, int device) {
    struct cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error == cudaSuccess)
        snprintf(name, (size_t)length, "%s", properties.name);
    return (int)error;
}

int cuDeviceGetAttribute(int *value, int name, int device) {
    return (int)cudaDeviceGetAttribute(value, (enum cudaDeviceAttr)name, device);
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    struct cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device);
    *bytes = error == cudaSuccess ? properties.totalGlobalMem : 0;
    return (int)error;
}
