# find_package(Torch): as Torch_DIR or CMAKE_PREFIX_PATH say, else that of the Python interpreter,
# which the Python modules have to fit in any case. Sets FXPASS_TORCH_LIB_DIR.
if(NOT Torch_DIR AND NOT FXPASS_PYTHON)
  find_package(Torch CONFIG QUIET)
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
  list(APPEND CMAKE_PREFIX_PATH "${torch_prefix}")
endif()
find_package(Torch CONFIG REQUIRED)
get_target_property(torch_location torch_cpu LOCATION)
get_filename_component(FXPASS_TORCH_LIB_DIR "${torch_location}" DIRECTORY)
