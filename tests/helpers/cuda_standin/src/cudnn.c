/* cuDNN: handles, and the graph interface as far as attention needs it. Every graph is one that an
 * engine without workspace takes, and running it is logged as one kernel. */
#include "standin.h"

#include <stdint.h>
#include <stdlib.h>

enum { NOT_SUPPORTED = 3000 };

/* Attributes of cudnn_backend.h that are read; all others have no elements. */
enum {
    HEURISTIC_RESULTS = 202,
    CONFIGURATION_ENGINE = 300,
    CONFIGURATION_SHARED_MEMORY = 304,
    PLAN_CONFIGURATION = 401,
    PLAN_WORKSPACE_BYTES = 402,
    ENGINE_INDEX = 1301,
};

static int create(void **result) {
    *result = calloc(1, 256);
    return 0;
}

static int discard(void *handle) {
    free(handle);
    return 0;
}

int cudnnCreate(void **handle) { return create(handle); }
int cudnnDestroy(void *handle) { return discard(handle); }
int cudnnSetStream(void *handle, void *stream) { return 0; }
int cudnnGetStream(void *handle, void **stream) {
    *stream = NULL;
    return 0;
}
size_t cudnnGetVersion(void) { return 91300; }
const char *cudnnGetErrorString(int status) { return status == 0 ? "success" : "not supported"; }
void cudnnGetLastErrorString(char *text, size_t bytes) {
    if (bytes > 0)
        *text = '\0';
}

int cudnnBackendCreateDescriptor(int type, void **descriptor) { return create(descriptor); }
int cudnnBackendDestroyDescriptor(void *descriptor) { return discard(descriptor); }
int cudnnBackendFinalize(void *descriptor) { return 0; }
int cudnnBackendSetAttribute(void *descriptor, int name, int type, int64_t count,
                             const void *elements) {
    return 0;
}

int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t room, int64_t *count,
                             void *elements) {
    const int is_number = name == PLAN_WORKSPACE_BYTES || name == ENGINE_INDEX;
    /* The caller makes the descriptors that results are written into; they are empty here. */
    const int is_descriptor =
        name == HEURISTIC_RESULTS || name == CONFIGURATION_ENGINE || name == PLAN_CONFIGURATION;
    if (count != NULL)
        *count = is_number || is_descriptor;
    if (is_number && room > 0 && elements != NULL)
        *(int64_t *)elements = 0;
    if (name == CONFIGURATION_SHARED_MEMORY && elements != NULL)
        *(int32_t *)elements = 0;
    return 0;
}

int cudnnBackendExecute(void *handle, void *plan, void *arguments) {
    standin_event("launch cudnnBackendExecute captured=%d", standin_is_capturing());
    standin_add_node();
    return 0;
}

#define REFUSED(name)                                                                              \
    int name(void) {                                                                               \
        standin_event("unsupported " #name);                                                       \
        return NOT_SUPPORTED;                                                                      \
    }
REFUSED(cudnnCreateTensorDescriptor)
REFUSED(cudnnDestroyTensorDescriptor)
REFUSED(cudnnSoftmaxForward)
