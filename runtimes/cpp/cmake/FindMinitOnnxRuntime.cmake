# ONNX Runtime's C++ headers and library, as the target minit2i::onnxruntime.
#
# ONNXRUNTIME_ROOT (a CMake or environment variable) names a folder with include/ and lib/, as in
# Microsoft's release archives; without it the system's places are searched.

find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS "${ONNXRUNTIME_ROOT}" ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime)
find_library(ONNXRUNTIME_LIBRARY onnxruntime
  HINTS "${ONNXRUNTIME_ROOT}" ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES lib lib64)
mark_as_advanced(ONNXRUNTIME_INCLUDE_DIR ONNXRUNTIME_LIBRARY)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(MinitOnnxRuntime
  REQUIRED_VARS ONNXRUNTIME_LIBRARY ONNXRUNTIME_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "no ONNX Runtime SDK. On Debian and Ubuntu, with onnxruntime installed \
in a Python, run: sh scripts/onnxruntime_sdk.sh FOLDER PYTHON and pass -DONNXRUNTIME_ROOT=FOLDER. \
Elsewhere unpack an archive of github.com/microsoft/onnxruntime/releases and pass its folder")

if(MinitOnnxRuntime_FOUND AND NOT TARGET minit2i::onnxruntime)
  add_library(minit2i::onnxruntime UNKNOWN IMPORTED)
  set_target_properties(minit2i::onnxruntime PROPERTIES
    IMPORTED_LOCATION "${ONNXRUNTIME_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${ONNXRUNTIME_INCLUDE_DIR}")
endif()
