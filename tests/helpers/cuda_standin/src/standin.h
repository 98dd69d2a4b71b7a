/* Stand-ins for the libraries of CUDA: device memory is host memory, and kernels are logged and
 * not run. They let the real CUDA provider of ONNX Runtime open sessions, place nodes, choose
 * kernels, copy and capture on a machine without a GPU. Values are meaningless there; names,
 * counts, sizes and order of calls are the library's own.
 *
 * Settings are environment variables, read once:
 *   CUDA_STANDIN_LOG           file that every call is appended to, one line each
 *   CUDA_STANDIN_CAPABILITY    compute capability, 90 by default
 *   CUDA_STANDIN_DEVICES       number of devices, 1 by default
 *   CUDA_STANDIN_DRIVER        version of the driver, 13000 by default; 0 means that there is none
 *   CUDA_STANDIN_MEMORY_MB     memory of each device, 141 GiB by default
 *   CUDA_STANDIN_FAIL_MALLOC   number of the allocation that fails, counted from 1
 *   CUDA_STANDIN_CAPTURE_MS    time that each capture takes at least, for calls of other threads
 */
#pragma once

#include <stddef.h>

enum { STANDIN_RUNTIME_VERSION = 13000 };

/* Appends a line to the log; the first word is the kind of event. */
__attribute__((format(printf, 1, 2))) void standin_event(const char *format, ...);

/* An environment variable as a number. */
long standin_setting(const char *name, long otherwise);

/* Whether some stream records a graph. */
int standin_is_capturing(void);

/* A node of the graph that is recorded now, if any is. */
void standin_add_node(void);

/* Logs a call that a capture forbids; returns whether there is a capture. */
int standin_forbidden(const char *call);

/* Remembers a copy of the graph that is recorded now, which reads host memory at each replay. */
void standin_add_host_copy(const void *source, size_t bytes);

/* Whether an address lies in memory of a device, or in pinned memory of the host. */
int standin_is_device_memory(const void *address);
int standin_is_pinned_memory(const void *address);

/* Whether a device can be used at all; otherwise the error of CUDA as a number. */
int standin_device_error(void);
