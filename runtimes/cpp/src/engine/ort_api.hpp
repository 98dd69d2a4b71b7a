// ONNX Runtime's C++ interface, and the version of the library that is loaded.
#pragma once

// Without this the headers ask for their own version when the program starts, and every call
// crashes if the library is older.
#ifndef ORT_API_MANUAL_INIT
#define ORT_API_MANUAL_INIT
#endif
#include <onnxruntime_cxx_api.h>

namespace minit2i {

// The API of the oldest library that the tests run: what is called here, plugins aside, must be in
// it, also where an inline function of newer headers calls something newer. ONNX Runtime 1.19.
constexpr int kMinOrtApi = 19;
// The least API with plugins.
constexpr int kMinPluginApi = 22;

// The least version for a GPU: before it, a replay of a CUDA graph may read memory that another run
// uses (onnxruntime #32121), and norms of a residual sum add up in half precision.
constexpr int kMinGpuVersion = 31;

// The 19 of 1.19.2: the version of the library that is loaded, whatever the headers were. Throws
// what load_ort_api throws.
int library_version();

// The API that headers and library share. The first call sets what Ort::GetApi returns. Throws a
// runtime failure if the library is older than kMinOrtApi.
int load_ort_api();

} // namespace minit2i
