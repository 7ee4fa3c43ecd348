# fxpass_find_torch(): the targets torch, torch_cpu and c10, from Torch_DIR or, without it, from
# where find_package(Torch) would look. Torch_DIR is empty afterwards if there is none.
#
# The TorchConfig.cmake of a torch that is built for CUDA (the wheels of the registry are) asks for
# the CUDA toolkit. Nothing here needs it: of such a torch the CPU libraries are taken alone.
macro(fxpass_find_torch)
  find_path(Torch_DIR TorchConfig.cmake PATH_SUFFIXES share/cmake/Torch
            DOC "The folder of TorchConfig.cmake")
  if(Torch_DIR AND NOT TARGET torch_cpu)
    get_filename_component(fxpass_torch_prefix "${Torch_DIR}/../../.." ABSOLUTE)
    if(EXISTS "${fxpass_torch_prefix}/lib/libc10_cuda.so")
      fxpass_torch_without_cuda("${fxpass_torch_prefix}")
    else()
      find_package(Torch CONFIG REQUIRED)
    endif()
  endif()
endmacro()

function(fxpass_torch_without_cuda prefix)
  foreach(library c10 torch_cpu)
    add_library(${library} SHARED IMPORTED GLOBAL)
    set_target_properties(${library} PROPERTIES IMPORTED_LOCATION "${prefix}/lib/lib${library}.so")
    target_include_directories(${library} SYSTEM INTERFACE
      "${prefix}/include" "${prefix}/include/torch/csrc/api/include")
  endforeach()
  # Names CUDA's libraries; what it needs of the CPU's is found at run time by its own run path.
  target_link_options(torch_cpu INTERFACE -Wl,--allow-shlib-undefined)
  target_link_libraries(torch_cpu INTERFACE c10)
  add_library(torch INTERFACE IMPORTED GLOBAL)
  target_link_libraries(torch INTERFACE torch_cpu)
endfunction()
