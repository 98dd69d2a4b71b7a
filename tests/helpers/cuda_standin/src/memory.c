/* Memory of devices and pinned memory of the host, copies and fills. */
#include "standin.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MAX_BLOCKS = 1 << 16, ALIGNMENT = 512 };

typedef struct {
    char *start;
    size_t bytes;
    int is_device;
} block_t;

static block_t blocks[MAX_BLOCKS];
static int num_blocks;
static size_t device_bytes;
static long num_mallocs;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static size_t total_memory(void) {
    return (size_t)standin_setting("CUDA_STANDIN_MEMORY_MB", 141L << 10) << 20;
}

static block_t *find_block(const void *address) {
    const char *at = address;
    for (int i = 0; i < num_blocks; i++)
        if (at >= blocks[i].start && at < blocks[i].start + blocks[i].bytes)
            return &blocks[i];
    return NULL;
}

static int is_memory(const void *address, int is_device) {
    pthread_mutex_lock(&mutex);
    const block_t *block = find_block(address);
    const int answer = block != NULL && block->is_device == is_device;
    pthread_mutex_unlock(&mutex);
    return answer;
}

int standin_is_device_memory(const void *address) { return is_memory(address, 1); }
int standin_is_pinned_memory(const void *address) { return is_memory(address, 0); }

/* Pages of the kernel are zero, and none is used before it is written. */
static cudaError_t allocate(void **result, size_t bytes, int is_device, const char *call) {
    const size_t size = (bytes + ALIGNMENT) & ~(size_t)(ALIGNMENT - 1);
    pthread_mutex_lock(&mutex);
    const int planned =
        is_device && ++num_mallocs == standin_setting("CUDA_STANDIN_FAIL_MALLOC", 0);
    const int too_much = is_device && device_bytes + size > total_memory();
    void *start = MAP_FAILED;
    if (!planned && !too_much && num_blocks < MAX_BLOCKS)
        start = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start != MAP_FAILED) {
        blocks[num_blocks++] = (block_t){start, size, is_device};
        device_bytes += is_device ? size : 0;
    }
    pthread_mutex_unlock(&mutex);
    standin_event("allocate %s bytes=%zu failed=%d", call, bytes, start == MAP_FAILED);
    if (start == MAP_FAILED)
        return cudaErrorMemoryAllocation;
    *result = start;
    return cudaSuccess;
}

static cudaError_t release(void *address) {
    if (address == NULL)
        return cudaSuccess;
    pthread_mutex_lock(&mutex);
    block_t *block = find_block(address);
    const block_t freed = block == NULL ? (block_t){0} : *block;
    if (block != NULL) {
        *block = blocks[--num_blocks];
        device_bytes -= freed.is_device ? freed.bytes : 0;
    }
    pthread_mutex_unlock(&mutex);
    if (freed.start != address)
        return cudaErrorInvalidValue;
    munmap(freed.start, freed.bytes);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **result, size_t bytes) {
    if (standin_device_error())
        return standin_device_error();
    if (standin_forbidden("cudaMalloc"))
        return cudaErrorStreamCaptureUnsupported;
    return allocate(result, bytes, 1, "cudaMalloc");
}

cudaError_t cudaMallocAsync(void **result, size_t bytes, cudaStream_t stream) {
    return allocate(result, bytes, 1, "cudaMallocAsync");
}

cudaError_t cudaMallocFromPoolAsync(void **result, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream) {
    return allocate(result, bytes, 1, "cudaMallocFromPoolAsync");
}

cudaError_t cudaFree(void *address) {
    if (standin_forbidden("cudaFree"))
        return cudaErrorStreamCaptureUnsupported;
    return release(address);
}

cudaError_t cudaFreeAsync(void *address, cudaStream_t stream) { return release(address); }

cudaError_t cudaMallocHost(void **result, size_t bytes) {
    if (standin_forbidden("cudaMallocHost"))
        return cudaErrorStreamCaptureUnsupported;
    return allocate(result, bytes, 0, "cudaMallocHost");
}

cudaError_t cudaHostAlloc(void **result, size_t bytes, unsigned flags) {
    return cudaMallocHost(result, bytes);
}

cudaError_t cudaFreeHost(void *address) {
    if (standin_forbidden("cudaFreeHost"))
        return cudaErrorStreamCaptureUnsupported;
    return release(address);
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) {
    if (standin_device_error())
        return standin_device_error();
    *total = total_memory();
    *unused = *total - device_bytes;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *result, const void *address) {
    memset(result, 0, sizeof *result);
    result->type = cudaMemoryTypeUnregistered;
    if (standin_is_device_memory(address))
        result->type = cudaMemoryTypeDevice;
    if (standin_is_pinned_memory(address))
        result->type = cudaMemoryTypeHost;
    if (result->type == cudaMemoryTypeDevice)
        result->devicePointer = (void *)address;
    if (result->type == cudaMemoryTypeHost)
        result->hostPointer = (void *)address;
    return cudaSuccess;
}

/* The kind of a copy by where its ends lie, whatever the caller says of it. */
static const char *kind_of(const void *to, const void *from) {
    const int to_device = standin_is_device_memory(to),
              from_device = standin_is_device_memory(from);
    if (to_device)
        return from_device ? "device-to-device" : "host-to-device";
    return from_device ? "device-to-host" : "host-to-host";
}

static void log_copy(const void *to, const void *from, size_t bytes, const char *call) {
    const char *kind = kind_of(to, from);
    const int reads_host = strcmp(kind, "host-to-device") == 0;
    standin_event("copy %s kind=%s bytes=%zu pinned=%d captured=%d", call, kind, bytes,
                  reads_host ? standin_is_pinned_memory(from) : standin_is_pinned_memory(to),
                  standin_is_capturing());
    standin_add_node();
    if (reads_host && standin_is_capturing())
        standin_add_host_copy(from, bytes);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    if (standin_forbidden("cudaMemcpy"))
        return cudaErrorStreamCaptureImplicit;
    log_copy(to, from, bytes, "waiting");
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    log_copy(to, from, bytes, "queued");
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream) {
    log_copy(to, from, width * height, "queued");
    for (size_t i = 0; i < height; i++)
        memcpy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    return cudaSuccess;
}

/* Symbols have no memory here. */
cudaError_t cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset,
                                 enum cudaMemcpyKind kind) {
    if (standin_forbidden("cudaMemcpyFromSymbol"))
        return cudaErrorStreamCaptureImplicit;
    standin_event("copy waiting kind=symbol bytes=%zu pinned=0 captured=0", bytes);
    memset(to, 0, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *at, int value, size_t bytes) {
    if (standin_forbidden("cudaMemset"))
        return cudaErrorStreamCaptureImplicit;
    standin_event("fill bytes=%zu captured=0", bytes);
    memset(at, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream) {
    standin_event("fill bytes=%zu captured=%d", bytes, standin_is_capturing());
    standin_add_node();
    memset(at, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const struct cudaMemPoolProps *properties) {
    *pool = (cudaMemPool_t)&mutex;
    return cudaSuccess;
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) { return cudaSuccess; }

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr name, void *value) {
    memset(value, 0, sizeof(unsigned long long));
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr name, void *value) {
    return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes) { return cudaSuccess; }
