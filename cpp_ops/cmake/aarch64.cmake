# Toolchain file: for 64-bit Arm, to run under qemu-aarch64. The kernels and their tests need nothing
# else; for the operators and the trainer Torch_DIR names torch's wheel for aarch64 (tools/arm.sh).
#   cmake -S cpp_ops/kernels -B build-arm -DCMAKE_TOOLCHAIN_FILE=$PWD/cpp_ops/cmake/aarch64.cmake \
#         -DFXPASS_KERNEL_TESTS=ON
#   cmake --build build-arm && qemu-aarch64 -L /usr/aarch64-linux-gnu build-arm/kernels_test
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
