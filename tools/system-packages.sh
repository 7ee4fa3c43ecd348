#!/usr/bin/env bash
# Installs the system packages that the build and the tests need, where this user may; elsewhere
# names the command that does. Needs no network when all of them are there.
set -eu

missing=()
need() { # need PACKAGE TEST...: PACKAGE is missing unless the test succeeds
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
python=${PYTHON:-python3.11}
has_headers() { "$python" -c 'import os, sysconfig; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")'; }
has_header() { # has_header FILE
  [ -e "/usr/include/$1" ] || [ -e "/usr/local/include/$1" ]
}

if ! command -v "$python" >/dev/null; then
  echo "fxpass needs Python 3.11: install it, or say where it is: make PYTHON=/path/to/python3.11" >&2
  exit 1
fi
need g++ command -v "${CXX:-c++}"
need python3-venv "$python" -c 'import venv, ensurepip'
need python3-dev has_headers
need doctest-dev has_header doctest/doctest.h
need libcli11-dev has_header CLI/CLI.hpp # for fxpass-train, as the next one
need nlohmann-json3-dev has_header nlohmann/json.hpp
need chromium command -v chromium # the tests look at the HTML report in a real browser
if [ "$(uname -m)" != aarch64 ]; then # the NEON kernels are cross-compiled and run under qemu
  need g++-aarch64-linux-gnu command -v aarch64-linux-gnu-g++
  need qemu-user command -v qemu-aarch64
fi
[ ${#missing[@]} -eq 0 ] && exit 0

command="apt-get install -y ${missing[*]}"
if ! command -v apt-get >/dev/null; then
  echo "fxpass needs these packages (Debian's names): ${missing[*]}" >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "fxpass needs packages that only root may install: sudo $command" >&2
  exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && $command -qq >/dev/null || {
  echo "this failed: apt-get update && $command" >&2
  exit 1
}
