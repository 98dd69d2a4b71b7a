/* cuBLAS and cuBLASLt: products are logged with their sizes and not computed. The arguments that
 * are not logged have no name. */
#include "standin.h"

#include <stdint.h>
#include <stdlib.h>

typedef struct {
    int math_mode;
} handle_t;

enum { NOT_SUPPORTED = 15, MAX_COMPUTED = 1 << 20 };

static void log_product(const char *call, const handle_t *handle, int m, int n, int k, int type,
                        int compute) {
    standin_event("product %s m=%d n=%d k=%d type=%d compute=%d math=%d captured=%d", call, m, n, k,
                  type, compute, handle == NULL ? 0 : handle->math_mode, standin_is_capturing());
    standin_add_node();
}

int cublasCreate_v2(handle_t **handle) {
    *handle = calloc(1, sizeof **handle);
    return 0;
}

int cublasDestroy_v2(handle_t *handle) {
    free(handle);
    return 0;
}

int cublasSetStream_v2(handle_t *handle, void *stream) { return 0; }

int cublasSetMathMode(handle_t *handle, int mode) {
    handle->math_mode = mode;
    return 0;
}

int cublasGetMathMode(handle_t *handle, int *mode) {
    *mode = handle->math_mode;
    return 0;
}

const char *cublasGetStatusName(int status) { return status == 0 ? "success" : "failure"; }
const char *cublasGetStatusString(int status) { return cublasGetStatusName(status); }

/* The product of the library's proof that a provider works is small, and its values are checked. */
static void multiply(int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                     const float *b, int ldb, float beta, float *c, int ldc) {
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            float sum = 0;
            for (int p = 0; p < k; p++)
                sum +=
                    (ta ? a[p + i * lda] : a[i + p * lda]) * (tb ? b[j + p * ldb] : b[p + j * ldb]);
            c[i + j * ldc] = alpha * sum + (beta == 0 ? 0 : beta * c[i + j * ldc]);
        }
}

int cublasSgemm_v2(handle_t *h, int ta, int tb, int m, int n, int k, const float *alpha,
                   const float *a, int lda, const float *b, int ldb, const float *beta, float *c,
                   int ldc) {
    log_product("cublasSgemm", h, m, n, k, 0, 0);
    if ((long)m * n * k <= MAX_COMPUTED && !standin_is_capturing())
        multiply(ta, tb, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
    return 0;
}

int cublasDgemm_v2(handle_t *h, int ta, int tb, int m, int n, int k, const double *alpha,
                   const void *a, int lda, const void *b, int ldb, const double *beta, void *c,
                   int ldc) {
    log_product("cublasDgemm", h, m, n, k, 1, 0);
    return 0;
}

int cublasSgemmStridedBatched(handle_t *h, int ta, int tb, int m, int n, int k, const float *alpha,
                              const void *a, int lda, long long sa, const void *b, int ldb,
                              long long sb, const float *beta, void *c, int ldc, long long sc,
                              int count) {
    log_product("cublasSgemmStridedBatched", h, m, n, k, 0, 0);
    return 0;
}

int cublasSgemmBatched(handle_t *h, int ta, int tb, int m, int n, int k, const float *alpha,
                       const void *const *a, int lda, const void *const *b, int ldb,
                       const float *beta, void *const *c, int ldc, int count) {
    log_product("cublasSgemmBatched", h, m, n, k, 0, 0);
    return 0;
}

int cublasGemmEx(handle_t *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                 int type_a, int lda, const void *b, int type_b, int ldb, const void *beta, void *c,
                 int type_c, int ldc, int compute, int algorithm) {
    log_product("cublasGemmEx", h, m, n, k, type_a, compute);
    return 0;
}

int cublasGemmStridedBatchedEx(handle_t *h, int ta, int tb, int m, int n, int k, const void *alpha,
                               const void *a, int type_a, int lda, long long sa, const void *b,
                               int type_b, int ldb, long long sb, const void *beta, void *c,
                               int type_c, int ldc, long long sc, int count, int compute,
                               int algorithm) {
    log_product("cublasGemmStridedBatchedEx", h, m, n, k, type_a, compute);
    return 0;
}

int cublasGemmBatchedEx(handle_t *h, int ta, int tb, int m, int n, int k, const void *alpha,
                        const void *const *a, int type_a, int lda, const void *const *b, int type_b,
                        int ldb, const void *beta, void *const *c, int type_c, int ldc, int count,
                        int compute, int algorithm) {
    log_product("cublasGemmBatchedEx", h, m, n, k, type_a, compute);
    return 0;
}

/* Transposes of matrices: a kernel like any other. */
static int log_kernel(const char *call) {
    standin_event("launch %s captured=%d", call, standin_is_capturing());
    standin_add_node();
    return 0;
}

int cublasSgeam(void) { return log_kernel("cublasSgeam"); }
int cublasDgeam(void) { return log_kernel("cublasDgeam"); }

/* cuBLASLt. Descriptors are empty: only the number of products is of interest. */
static int create(void **result) {
    *result = calloc(1, 256);
    return 0;
}

int cublasLtCreate(void **handle) { return create(handle); }
int cublasLtMatmulDescCreate(void **result, int compute, int scale) { return create(result); }
int cublasLtMatmulPreferenceCreate(void **result) { return create(result); }
int cublasLtMatrixTransformDescCreate(void **result, int scale) { return create(result); }
int cublasLtMatrixLayoutCreate(void **result, int type, uint64_t rows, uint64_t columns,
                               int64_t ld) {
    return create(result);
}

static int discard(void *handle) {
    free(handle);
    return 0;
}

int cublasLtDestroy(void *handle) { return discard(handle); }
int cublasLtMatmulDescDestroy(void *handle) { return discard(handle); }
int cublasLtMatmulPreferenceDestroy(void *handle) { return discard(handle); }
int cublasLtMatrixTransformDescDestroy(void *handle) { return discard(handle); }
int cublasLtMatrixLayoutDestroy(void *handle) { return discard(handle); }

int cublasLtMatmulDescSetAttribute(void *d, int name, const void *value, size_t bytes) { return 0; }
int cublasLtMatmulPreferenceSetAttribute(void *d, int name, const void *value, size_t bytes) {
    return 0;
}
int cublasLtMatrixLayoutSetAttribute(void *d, int name, const void *value, size_t bytes) {
    return 0;
}
int cublasLtMatmulAlgoConfigSetAttribute(void *a, int name, const void *value, size_t bytes) {
    return 0;
}
int cublasLtMatmulAlgoInit(void *h, int compute, int scale, int a, int b, int c, int d, int id,
                           void *algorithm) {
    return 0;
}

int cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *a, void *b, void *c, void *out,
                                   void *preference, int asked, void *results, int *returned) {
    /* The first field is an algorithm of 64 bytes; all zero is one that needs no workspace. */
    *returned = asked > 0;
    return 0;
}

int cublasLtMatmul(void *h, void *d, const void *alpha, const void *a, void *layout_a,
                   const void *b, void *layout_b, const void *beta, const void *c, void *layout_c,
                   void *out, void *layout_out, const void *algorithm, void *workspace,
                   size_t bytes, void *stream) {
    log_product("cublasLtMatmul", NULL, 0, 0, 0, 0, 0);
    return 0;
}

int cublasLtMatrixTransform(void *h, void *d, const void *alpha, const void *a, void *layout_a,
                            const void *beta, const void *b, void *layout_b, void *c,
                            void *layout_c, void *stream) {
    log_product("cublasLtMatrixTransform", NULL, 0, 0, 0, 0, 0);
    return 0;
}

/* Never called by the graphs of this project; the library binds their names when it is loaded. */
#define UNUSED(name)                                                                               \
    int name(void) {                                                                               \
        standin_event("unsupported " #name);                                                       \
        return NOT_SUPPORTED;                                                                      \
    }
UNUSED(cublasDgemmBatched)
UNUSED(cublasDgemmStridedBatched)
UNUSED(cublasDgetrfBatched)
UNUSED(cublasDgetriBatched)
UNUSED(cublasScopy_v2)
UNUSED(cublasSgetrfBatched)
UNUSED(cublasSgetriBatched)
UNUSED(cublasSscal_v2)
