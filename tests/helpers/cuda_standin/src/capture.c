/* Streams, events, captures and graphs. A replay checks that the host memory which the graph reads
 * still holds what it held when the graph was recorded. */
#include "standin.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_HOST_COPIES = 1 << 17 };

typedef struct {
    const void *source;
    void *contents;
    size_t bytes;
    long graph;
} host_copy_t;

static host_copy_t host_copies[MAX_HOST_COPIES];
static int num_host_copies;
static long num_graphs, num_streams, num_nodes;
static int is_capturing, is_invalid;
static cudaStream_t capturing_stream;
static pthread_t capturing_thread;
static enum cudaStreamCaptureMode capture_mode;

int standin_is_capturing(void) { return is_capturing; }

void standin_add_node(void) { num_nodes += is_capturing; }

/* Whose calls a capture forbids is its mode: global, those of all threads. */
int standin_forbidden(const char *call) {
    const int is_other = is_capturing && !pthread_equal(pthread_self(), capturing_thread);
    if (!is_capturing || capture_mode == cudaStreamCaptureModeRelaxed ||
        (is_other && capture_mode == cudaStreamCaptureModeThreadLocal))
        return 0;
    standin_event("violation %s other_thread=%d", call, is_other);
    is_invalid = 1;
    return 1;
}

void standin_add_host_copy(const void *source, size_t bytes) {
    if (num_host_copies == MAX_HOST_COPIES)
        return;
    void *contents = malloc(bytes);
    memcpy(contents, source, bytes);
    host_copies[num_host_copies++] = (host_copy_t){source, contents, bytes, num_graphs + 1};
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    if (standin_device_error())
        return standin_device_error();
    /* Never dereferenced; distinct from the special streams 0, 1 and 2. */
    *stream = (cudaStream_t)(0x1000 + 16 * ++num_streams);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return cudaSuccess; }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (stream == capturing_stream && standin_forbidden("cudaStreamSynchronize"))
        return cudaErrorStreamCaptureUnsupported;
    standin_event("wait stream");
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    if (standin_forbidden("cudaDeviceSynchronize"))
        return cudaErrorStreamCaptureUnsupported;
    standin_event("wait device");
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    standin_event("order stream-after-event");
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    *event = (cudaEvent_t)&num_graphs;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaSuccess; }

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (standin_forbidden("cudaEventSynchronize"))
        return cudaErrorStreamCaptureUnsupported;
    standin_event("wait event");
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    *ms = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    standin_event("capture begin mode=%d", mode);
    is_invalid = 0;
    num_nodes = 0;
    capturing_stream = stream;
    capturing_thread = pthread_self();
    capture_mode = mode;
    is_capturing = 1;
    usleep(1000 * standin_setting("CUDA_STANDIN_CAPTURE_MS", 0));
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    is_capturing = 0;
    capturing_stream = NULL;
    standin_event("capture end nodes=%ld valid=%d", num_nodes, !is_invalid);
    *graph = is_invalid ? NULL : (cudaGraph_t)++num_graphs;
    return is_invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    const int recorded = is_capturing && stream == capturing_stream;
    *status = recorded ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph,
                                 unsigned long long flags) {
    *executable = (cudaGraphExec_t)graph;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return cudaSuccess; }

/* Pinned memory that was freed must not be read, here or by a GPU. */
static int is_stale(const host_copy_t *copy) {
    return !standin_is_pinned_memory(copy->source) ||
           memcmp(copy->source, copy->contents, copy->bytes) != 0;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    int num_copies = 0, num_stale = 0;
    for (int i = 0; i < num_host_copies; i++) {
        if (host_copies[i].graph != (long)graph)
            continue;
        num_copies++;
        num_stale += is_stale(&host_copies[i]);
    }
    standin_event("replay graph=%ld host_copies=%d stale=%d", (long)graph, num_copies, num_stale);
    return cudaSuccess;
}
