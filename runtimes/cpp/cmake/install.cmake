# Installs headers, library, ONNX Runtime's copy, and what find_package and pkg-config read. All
# paths are relative to the installed files, so that the prefix may move.

include(CMakePackageConfigHelpers)

set(minit2i_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/minit2i)
install(FILES include/minit2i.h include/minit2i.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS minit2i EXPORT minit2iTargets)
install(EXPORT minit2iTargets NAMESPACE minit2i:: DESTINATION ${minit2i_cmake_dir})
if(MINIT2I_INSTALL_ONNXRUNTIME)
  # The libraries of a GPU release lie beside it and are loaded from there.
  get_filename_component(onnxruntime_dir "${ONNXRUNTIME_LIBRARY}" DIRECTORY)
  install(DIRECTORY "${onnxruntime_dir}/" DESTINATION ${minit2i_private_dir}
    USE_SOURCE_PERMISSIONS FILES_MATCHING PATTERN "libonnxruntime*.so*" PATTERN "*.dll"
    PATTERN "libonnxruntime*.dylib" PATTERN "cmake" EXCLUDE PATTERN "pkgconfig" EXCLUDE)
endif()

configure_package_config_file(cmake/minit2iConfig.cmake.in minit2iConfig.cmake
  INSTALL_DESTINATION ${minit2i_cmake_dir} PATH_VARS CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(minit2iConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES cmake/FindMinitOnnxRuntime.cmake
  "${CMAKE_CURRENT_BINARY_DIR}/minit2iConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/minit2iConfigVersion.cmake"
  DESTINATION ${minit2i_cmake_dir})

file(RELATIVE_PATH minit2i_pc_to_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" minit2i_pc_to_prefix "${minit2i_pc_to_prefix}")
set(minit2i_pc_cflags "")
set(minit2i_pc_requires "")
set(minit2i_pc_libs "-lminit2i")
if(NOT BUILD_SHARED_LIBS)
  # A shared library brings these itself. Here they are public, so that --static is not needed.
  set(minit2i_pc_cflags " -DMINIT2I_STATIC")
  set(minit2i_pc_requires "\nRequires: libpng")
  if(MINIT2I_INSTALL_ONNXRUNTIME)
    # No loader looks there by itself.
    string(APPEND minit2i_pc_libs " -L\${libdir}/minit2i -Wl,-rpath,\${libdir}/minit2i")
  else()
    get_filename_component(onnxruntime_dir "${ONNXRUNTIME_LIBRARY}" DIRECTORY)
    string(APPEND minit2i_pc_libs " -L${onnxruntime_dir}")
  endif()
  string(APPEND minit2i_pc_libs " -lonnxruntime -lstdc++ -lm -ldl -pthread")
endif()
configure_file(cmake/minit2i.pc.in minit2i.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/minit2i.pc"
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
