# ONNX Runtime's C++ headers and library, as the target minit2i::onnxruntime.
#
# ONNXRUNTIME_ROOT (a CMake or environment variable) names a folder with include/ and lib/, as in
# Microsoft's release archives; without it the system's places are searched.
# MinitOnnxRuntime_FIND_HEADERS FALSE looks for the library alone, which is enough to link programs.
# Sets ONNXRUNTIME_IS_PRIVATE: ON if the library lies where no loader looks for it by itself.

if(NOT DEFINED MinitOnnxRuntime_FIND_HEADERS)
  set(MinitOnnxRuntime_FIND_HEADERS TRUE)
endif()
set(required_variables ONNXRUNTIME_LIBRARY)
if(MinitOnnxRuntime_FIND_HEADERS)
  find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
    HINTS "${ONNXRUNTIME_ROOT}" ENV ONNXRUNTIME_ROOT
    PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime)
  list(APPEND required_variables ONNXRUNTIME_INCLUDE_DIR)
  mark_as_advanced(ONNXRUNTIME_INCLUDE_DIR)
endif()
find_library(ONNXRUNTIME_LIBRARY onnxruntime
  HINTS "${ONNXRUNTIME_LIBRARY_HINT}" "${ONNXRUNTIME_ROOT}" ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES lib lib64)
mark_as_advanced(ONNXRUNTIME_LIBRARY)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(MinitOnnxRuntime
  REQUIRED_VARS ${required_variables}
  REASON_FAILURE_MESSAGE "no ONNX Runtime SDK. Run: sh scripts/onnxruntime_sdk.sh FOLDER SOURCE \
with a release archive, a wheel or a Python that has onnxruntime as SOURCE, and pass \
-DONNXRUNTIME_ROOT=FOLDER")
unset(required_variables)

if(MinitOnnxRuntime_FOUND)
  get_filename_component(onnxruntime_dir "${ONNXRUNTIME_LIBRARY}" DIRECTORY)
  set(ONNXRUNTIME_IS_PRIVATE ON)
  if(onnxruntime_dir IN_LIST CMAKE_C_IMPLICIT_LINK_DIRECTORIES
      OR onnxruntime_dir STREQUAL "/usr/local/lib")
    set(ONNXRUNTIME_IS_PRIVATE OFF)
  endif()
  if(NOT TARGET minit2i::onnxruntime)
    add_library(minit2i::onnxruntime UNKNOWN IMPORTED)
    set_target_properties(minit2i::onnxruntime PROPERTIES
      IMPORTED_LOCATION "${ONNXRUNTIME_LIBRARY}")
    if(ONNXRUNTIME_INCLUDE_DIR)
      set_target_properties(minit2i::onnxruntime PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES "${ONNXRUNTIME_INCLUDE_DIR}")
    endif()
  endif()
endif()
