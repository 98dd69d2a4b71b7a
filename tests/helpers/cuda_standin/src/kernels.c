/* Kernels: registered by name when a library is loaded, logged when launched. */
#include "standin.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { NUM_SLOTS = 1 << 18, MAX_NESTED = 16 };

static struct {
    const void *function;
    const char *name;
} slots[NUM_SLOTS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

typedef struct {
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
} launch_t;

static __thread launch_t launches[MAX_NESTED];
static __thread int num_launches;

/* Slot of a function, or the empty one where it belongs. */
static size_t slot_of(const void *function) {
    size_t slot = ((uintptr_t)function >> 4) * 2654435761u % NUM_SLOTS;
    while (slots[slot].function != NULL && slots[slot].function != function)
        slot = (slot + 1) % NUM_SLOTS;
    return slot;
}

static void put_name(const void *function, const char *name) {
    pthread_mutex_lock(&mutex);
    const size_t slot = slot_of(function);
    slots[slot].function = function;
    slots[slot].name = name;
    pthread_mutex_unlock(&mutex);
}

static const char *name_of(const void *function) {
    pthread_mutex_lock(&mutex);
    const char *name = slots[slot_of(function)].name;
    pthread_mutex_unlock(&mutex);
    return name == NULL ? "unknown" : name;
}

/* What a compiler for CUDA puts into each library that holds kernels. */
void **__cudaRegisterFatBinary(void *binary) { return calloc(1, sizeof(void *)); }
void __cudaRegisterFatBinaryEnd(void **handle) {}
void __cudaUnregisterFatBinary(void **handle) { free(handle); }

void __cudaRegisterFunction(void **handle, const char *function, char *device_function,
                            const char *name, int thread_limit, uint3 *thread, uint3 *block,
                            dim3 *block_size, dim3 *grid_size, int *warp_size) {
    put_name(function, name);
}

void __cudaRegisterVar(void **handle, char *variable, char *address, const char *name,
                       int is_external, size_t bytes, int is_constant, int is_global) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                     struct CUstream_st *stream) {
    if (num_launches == MAX_NESTED)
        abort();
    launches[num_launches++] = (launch_t){grid, block, shared_bytes, stream};
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes,
                                       void *stream) {
    if (num_launches == 0)
        abort();
    const launch_t launch = launches[--num_launches];
    *grid = launch.grid;
    *block = launch.block;
    *shared_bytes = launch.shared_bytes;
    *(cudaStream_t *)stream = launch.stream;
    return cudaSuccess;
}

static cudaError_t log_launch(const void *function, dim3 grid, dim3 block) {
    standin_event("launch %s grid=%u,%u,%u block=%u,%u,%u captured=%d", name_of(function), grid.x,
                  grid.y, grid.z, block.x, block.y, block.z, standin_is_capturing());
    standin_add_node();
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments,
                             size_t shared_bytes, cudaStream_t stream) {
    return log_launch(function, grid, block);
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                               size_t shared_bytes, cudaStream_t stream) {
    return log_launch(kernel, grid, block);
}

cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block,
                                        void **arguments, size_t shared_bytes,
                                        cudaStream_t stream) {
    return log_launch(function, grid, block);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *launch, const void *function,
                                void **arguments) {
    return log_launch(function, launch->gridDim, launch->blockDim);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    standin_event("hostcall captured=%d", standin_is_capturing());
    standin_add_node();
    if (!standin_is_capturing())
        function(data);
    return cudaSuccess;
}

cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, enum cudaJitOption *jit,
                                void **jit_values, unsigned num_jit,
                                enum cudaLibraryOption *options, void **option_values,
                                unsigned num_options) {
    *library = (cudaLibrary_t)&mutex;
    return cudaSuccess;
}

cudaError_t cudaLibraryUnload(cudaLibrary_t library) { return cudaSuccess; }

cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name) {
    char *copy = strdup(name);
    put_name(copy, copy);
    *kernel = (cudaKernel_t)copy;
    return cudaSuccess;
}

cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, enum cudaFuncAttribute name,
                                            int value, int device) {
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *result, const void *function) {
    memset(result, 0, sizeof *result);
    const int capability = (int)standin_setting("CUDA_STANDIN_CAPABILITY", 90);
    result->numRegs = 64;
    result->maxThreadsPerBlock = 1024;
    result->maxDynamicSharedSizeBytes = 48 << 10;
    result->binaryVersion = result->ptxVersion = capability;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute name, int value) {
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *num_blocks, const void *function, int block_size, size_t shared_bytes, unsigned flags) {
    *num_blocks = 2;
    return cudaSuccess;
}
