# Torch's C++ targets: as Torch_DIR or CMAKE_PREFIX_PATH say, else those of the Python interpreter,
# which the Python modules have to fit in any case. Sets FXPASS_TORCH_LIB_DIR and
# FXPASS_TORCH_VERSION.
include(cmake/torch_targets.cmake)
if(NOT FXPASS_PYTHON)
  fxpass_find_torch()
endif()
if(NOT Torch_DIR AND CMAKE_CROSSCOMPILING)
  message(FATAL_ERROR "torch for ${CMAKE_SYSTEM_PROCESSOR} was not found: "
                      "say where it is with -DTorch_DIR=.../torch/share/cmake/Torch")
endif()
if(NOT Torch_DIR)
  find_package(Python 3.11 COMPONENTS Interpreter)
  if(Python_EXECUTABLE)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -c "import torch; print(torch.utils.cmake_prefix_path)"
      OUTPUT_VARIABLE torch_prefix OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  if(NOT torch_prefix)
    message(FATAL_ERROR "torch is not importable by '${Python_EXECUTABLE}': pip install "
                        "torch==2.13.0 first, then fxpass with --no-build-isolation; or say where "
                        "torch is with -DTorch_DIR=.../torch/share/cmake/Torch")
  endif()
  set(Torch_DIR "${torch_prefix}/Torch" CACHE PATH "The folder of TorchConfig.cmake" FORCE)
endif()
fxpass_find_torch()
get_target_property(torch_location torch_cpu LOCATION)
get_filename_component(FXPASS_TORCH_LIB_DIR "${torch_location}" DIRECTORY)
include("${Torch_DIR}/TorchConfigVersion.cmake")
set(FXPASS_TORCH_VERSION "${PACKAGE_VERSION}")
