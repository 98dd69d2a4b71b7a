/* What the provider imports of the driver and of cuRAND: one function, which it does not call. */
#include "standin.h"

int cuTensorMapEncodeTiled(void) {
    standin_event("unsupported cuTensorMapEncodeTiled");
    return 801; /* CUDA_ERROR_NOT_SUPPORTED */
}
