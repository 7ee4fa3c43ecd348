# Where things are installed, relative to the prefix, and how they find each other there.
#   plain:   bin/ lib/ include/fxpass/ lib/cmake/fxpass/
#   Python:  in site-packages, where torch is a neighbour:
#            fxpass/ fxpass/include/fxpass/ fxpass/share/cmake/fxpass/, and programs in the
#            environment's bin/
if(NOT FXPASS_PYTHON)
  include(GNUInstallDirs)
  set(FXPASS_BIN_DIR "${CMAKE_INSTALL_BINDIR}")
  set(FXPASS_LIB_DIR "${CMAKE_INSTALL_LIBDIR}")
  set(FXPASS_INCLUDE_DIR "${CMAKE_INSTALL_INCLUDEDIR}")
  set(FXPASS_CMAKE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/fxpass")
  set(FXPASS_LIB_RPATH "${FXPASS_TORCH_LIB_DIR}")
  set(FXPASS_BIN_RPATH "$ORIGIN/../${FXPASS_LIB_DIR}" "${FXPASS_TORCH_LIB_DIR}")
  return()
endif()

set(FXPASS_LIB_DIR fxpass)
set(FXPASS_INCLUDE_DIR fxpass/include)
set(FXPASS_CMAKE_DIR fxpass/share/cmake/fxpass)
set(FXPASS_LIB_RPATH "$ORIGIN/../torch/lib")
if(SKBUILD)
  set(FXPASS_BIN_DIR "${SKBUILD_SCRIPTS_DIR}")
  # Every environment has the same way from its scripts to its packages as the one that builds.
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "import os, sysconfig as s; print(os.path.relpath(s.get_path('platlib'), s.get_path('scripts')))"
    OUTPUT_VARIABLE packages OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
else()
  set(FXPASS_BIN_DIR bin)
  set(packages "..")
endif()
set(FXPASS_BIN_RPATH "$ORIGIN/${packages}/fxpass" "$ORIGIN/${packages}/torch/lib")
