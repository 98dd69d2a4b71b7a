# Sets result to the version in the name by which programs load an ONNX Runtime (its SONAME): 1 in
# release archives, with the minor version in Debian's package, empty if the name has none.
function(minit2i_read_soversion library result)
  set(${result} 1 PARENT_SCOPE)
  set(text "")
  if(CMAKE_READELF)
    execute_process(COMMAND "${CMAKE_READELF}" -d "${library}" OUTPUT_VARIABLE text ERROR_QUIET)
  elseif(CMAKE_OBJDUMP)
    execute_process(COMMAND "${CMAKE_OBJDUMP}" -p "${library}" OUTPUT_VARIABLE text ERROR_QUIET)
  elseif(IS_SYMLINK "${library}" AND NOT ONNXRUNTIME_IS_PRIVATE)
    # What a package's link for compilers leads to; links in release archives name the release.
    file(READ_SYMLINK "${library}" target)
    set(text "SONAME ${target}")
  endif()
  if(text MATCHES "SONAME[^\n]*libonnxruntime\\.so(\\.[0-9.]+)?")
    string(REGEX REPLACE "^\\." "" version "${CMAKE_MATCH_1}")
    set(${result} "${version}" PARENT_SCOPE)
  endif()
endfunction()
