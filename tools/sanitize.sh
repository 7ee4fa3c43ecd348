#!/usr/bin/env bash
# Kernels and operators under the sanitizers. The kernels' tests and the fuzzer are instrumented as a
# whole; the operators run in an uninstrumented Python, with the sanitizer's library preloaded.
set -euo pipefail
cd "$(dirname "$0")/.."

site=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
fuzz_seconds=${FUZZ_SECONDS:-20}

kernels() { # kernels NAME SANITIZERS
  cmake -S cpp_ops/kernels -B "build/kernels-$1" -G Ninja -DFXPASS_KERNEL_TESTS=ON \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFXPASS_SANITIZE="$2" >/dev/null
  cmake --build "build/kernels-$1"
  echo "== kernels under $2"
  "build/kernels-$1/kernels_test"
  "build/kernels-$1/fuzz_payload" "$fuzz_seconds"
}

operators() { # operators NAME SANITIZERS LIBRARY TESTS...: a package of its own, beside the editable one
  local name=$1 sanitizers=$2 library=$3
  shift 3
  cmake -S . -B "build/$name" -G Ninja -DFXPASS_SANITIZE="$sanitizers" \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFXPASS_PYTHON=ON \
    -DPython_EXECUTABLE="$(command -v python)" \
    -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" >/dev/null
  cmake --build "build/$name"
  rm -rf "build/$name-root"
  cmake --install "build/$name" --prefix "build/$name-root" --component python >/dev/null
  cp -r fxpass bench tests "build/$name-root/"
  echo "== operators under $sanitizers"
  # -S: without site-packages' .pth files, one of which would find the editable package first.
  # libstdc++ too, or the sanitizer finds no __cxa_throw to wrap when the interpreter starts.
  (cd "build/$name-root" &&
    LD_PRELOAD="$(c++ -print-file-name="$library") $(c++ -print-file-name=libstdc++.so.6)" \
      PYTHONPATH="$PWD:$site" \
      ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
      TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1 \
      python -S -m pytest -q -p no:cacheprovider "$@")
}

kernels asan address,undefined
kernels tsan thread
operators ops-asan address,undefined libasan.so tests/test_autograd_*.py tests/test_ops_*.py tests/test_paging.py
# ATen's thread pool (OpenMP) is not instrumented, so its own hand-overs would look like races: one
# thread there, several of our own.
OMP_NUM_THREADS=1 operators ops-tsan thread libtsan.so tests/test_autograd_shared.py tests/test_paging.py
