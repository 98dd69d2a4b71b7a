/* cuDNN: handles and nothing else. Convolutions need its graph interface, which is refused. */
#include "standin.h"

#include <stdlib.h>

enum { NOT_SUPPORTED = 3000 };

int cudnnCreate(void **handle) {
    *handle = calloc(1, 256);
    return 0;
}

int cudnnDestroy(void *handle) {
    free(handle);
    return 0;
}

int cudnnSetStream(void *handle, void *stream) { return 0; }
size_t cudnnGetVersion(void) { return 91300; }
const char *cudnnGetErrorString(int status) { return status == 0 ? "success" : "not supported"; }
void cudnnGetLastErrorString(char *text, size_t bytes) {
    if (bytes > 0)
        *text = '\0';
}

#define REFUSED(name)                                                                              \
    int name(void) {                                                                               \
        standin_event("unsupported " #name);                                                       \
        return NOT_SUPPORTED;                                                                      \
    }
REFUSED(cudnnBackendCreateDescriptor)
REFUSED(cudnnBackendDestroyDescriptor)
REFUSED(cudnnBackendExecute)
REFUSED(cudnnBackendFinalize)
REFUSED(cudnnBackendGetAttribute)
REFUSED(cudnnBackendSetAttribute)
REFUSED(cudnnCreateTensorDescriptor)
REFUSED(cudnnDestroyTensorDescriptor)
REFUSED(cudnnSoftmaxForward)
