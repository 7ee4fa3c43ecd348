# Toolchain file: the kernels and their tests for 64-bit ARM, static, to run under qemu-aarch64.
#   cmake -S cpp_ops/kernels -B build-arm -DCMAKE_TOOLCHAIN_FILE=$PWD/cpp_ops/cmake/aarch64.cmake \
#         -DFXPASS_KERNEL_TESTS=ON
#   cmake --build build-arm && qemu-aarch64 build-arm/kernels_test
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
