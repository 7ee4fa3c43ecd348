#!/usr/bin/env bash
# Builds the operators and fxpass-train for 64-bit Arm, against the libraries in torch's own wheel for
# it, and readies qemu-aarch64 to run them. Leaves in build/arm:
#   torch/     the parts of the wheel that are needed (the wheel is a download of 430 MB, once)
#   sysroot/   for qemu-aarch64 -L
#   fxpass/    the build: cpp_ops/trainer/fxpass-train, cpp_ops/libfxpass_ops.so
#   run        runs a program of them: build/arm/run build/arm/fxpass/.../fxpass-train ...
set -euo pipefail
cd "$(dirname "$0")/.."

arm=$PWD/build/arm
version=$(python -c 'import torch; print(torch.__version__.split("+")[0])')
compile=aarch64-linux-gnu-gcc

for tool in aarch64-linux-gnu-g++:g++-aarch64-linux-gnu qemu-aarch64:qemu-user; do
  command -v "${tool%:*}" >/dev/null ||
    { echo "tools/arm.sh needs ${tool%:*}: apt-get install ${tool#*:}" >&2; exit 1; }
done

unpack_torch() {
  mkdir -p "$arm/wheel"
  pip download --quiet --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 \
    --dest "$arm/wheel" "torch==$version" ||
    { echo "tools/arm.sh: pip found no wheel of torch $version for manylinux_2_28_aarch64" >&2; exit 1; }
  rm -rf "$arm/unpacked"
  # Not what is Python's, nor the halves for a GPU: nothing of the rest calls them.
  python - "$arm" <<'PYTHON'
import pathlib, sys, zipfile
arm = pathlib.Path(sys.argv[1])
(wheel,) = arm.glob("wheel/torch-*.whl")
skip = ("libtorch_cuda", "libtorch_nvshmem", "libtorch_python", "libcaffe2_nvrtc")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        path = pathlib.PurePath(name)
        if path.parts[1:2] in [("include",), ("lib",), ("share",)] and not path.name.startswith(skip):
            archive.extract(name, arm / "unpacked")
PYTHON
  # The wheel is built for CUDA, whose libraries it names but does not hold. Without a GPU none of
  # their functions is called: empty ones of the same names and versions do.
  local library
  for library in $(aarch64-linux-gnu-readelf -d "$arm/unpacked/torch/lib/libtorch_cpu.so" |
    grep -oE 'libcu[a-z]+\.so\.[0-9]+' | sort -u); do
    echo "$library { *; };" >"$arm/versions"
    echo 'void fxpass_no_cuda(void) {}' | $compile -shared -nostdlib -x c - \
      -Wl,-soname,"$library" -Wl,--version-script,"$arm/versions" \
      -o "$arm/unpacked/torch/lib/$library"
  done
  rm -rf "$arm/torch"
  mv "$arm/unpacked/torch" "$arm/torch"
  rm -rf "$arm/unpacked" "$arm/wheel" "$arm/versions"
  echo "$version" >"$arm/torch/unpacked"
}

# What torch's libraries read about the processor as they are loaded, which qemu would answer with
# the host's: a Cortex-A76, the one in a Raspberry Pi 5.
make_sysroot() {
  local cpu=$arm/sysroot/sys/devices/system/cpu/cpu0/regs/identification processor
  mkdir -p "$cpu" "$arm/sysroot/proc"
  ln -sfn /usr/aarch64-linux-gnu/lib "$arm/sysroot/lib"
  echo 0x00000000414fd0b1 >"$cpu/midr_el1"
  for ((processor = 0; processor < $(nproc); processor++)); do
    cat <<END
processor	: $processor
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x4
CPU part	: 0xd0b
CPU revision	: 1

END
  done >"$arm/sysroot/proc/cpuinfo"
  cat >"$arm/run" <<END
#!/bin/sh
exec qemu-aarch64 -cpu cortex-a76 -L "$arm/sysroot" "\$@"
END
  chmod +x "$arm/run"
}

[ "$(cat "$arm/torch/unpacked" 2>/dev/null)" = "$version" ] || unpack_torch
make_sysroot
cmake -S . -B "$arm/fxpass" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$PWD/cpp_ops/cmake/aarch64.cmake" \
  -DFXPASS_TRAINER=ON -DTorch_DIR="$arm/torch/share/cmake/Torch" >/dev/null
cmake --build "$arm/fxpass"
