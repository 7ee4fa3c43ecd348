# Installs the library, its headers, and what find_package(fxpass) needs: a target fxpass::ops.
include(CMakePackageConfigHelpers)

# What a program links. It calls the operators by name only, so a linker that leaves out libraries
# of which no symbol is used would leave out ours: it is named once more, between two flags.
add_library(fxpass_link INTERFACE)
set_target_properties(fxpass_link PROPERTIES EXPORT_NAME ops)
target_link_libraries(fxpass_link INTERFACE
  fxpass_ops
  "$<INSTALL_INTERFACE:-Wl,--push-state,--no-as-needed,$<TARGET_FILE:fxpass::fxpass_ops>,--pop-state>"
  torch)
target_include_directories(fxpass_link INTERFACE
  "$<INSTALL_INTERFACE:${FXPASS_INCLUDE_DIR}>"
  "$<INSTALL_INTERFACE:${FXPASS_INCLUDE_DIR}/fxpass>") # as our headers name each other
target_compile_features(fxpass_link INTERFACE cxx_std_20)

install(TARGETS fxpass_ops EXPORT fxpass DESTINATION "${FXPASS_LIB_DIR}" COMPONENT python)
install(TARGETS fxpass_link EXPORT fxpass COMPONENT python)
foreach(header op_version.h memory/part.h memory/tracker.h)
  get_filename_component(folder "${header}" DIRECTORY)
  install(FILES "${header}" DESTINATION "${FXPASS_INCLUDE_DIR}/fxpass/${folder}" COMPONENT python)
endforeach()

install(EXPORT fxpass FILE fxpassTargets.cmake NAMESPACE fxpass::
        DESTINATION "${FXPASS_CMAKE_DIR}" COMPONENT python)
configure_package_config_file(cmake/fxpassConfig.cmake.in fxpassConfig.cmake
  INSTALL_DESTINATION "${FXPASS_CMAKE_DIR}" PATH_VARS FXPASS_LIB_DIR)
write_basic_package_version_file(fxpassConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/fxpassConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/fxpassConfigVersion.cmake"
              cmake/torch_targets.cmake
        DESTINATION "${FXPASS_CMAKE_DIR}" COMPONENT python)
