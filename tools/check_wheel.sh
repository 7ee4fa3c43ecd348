#!/usr/bin/env bash
# Builds the source archive and, from it, the wheel, into out/dist; then tries the wheel in a fresh
# environment beside torch, where there is no compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

rm -rf out/dist
# The environment's torch and build tools; an isolated build would fetch the same once more.
python -m build --no-isolation --outdir out/dist .
python tools/wheel_contents.py out/dist/*.whl

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
python -m venv "$fresh/venv"
"$fresh/venv/bin/pip" install --quiet "torch==$(python -c 'import torch; print(torch.__version__)')"
"$fresh/venv/bin/pip" install --quiet out/dist/*.whl
cp tools/wheel_trial.py "$fresh/"
cd "$fresh"
in_venv() { env -i HOME="$fresh" PATH="$fresh/venv/bin" TERM=dumb "$@"; }
for compiler in cc c++ gcc g++ clang ninja cmake; do
  ! in_venv bash -c "command -v $compiler" 2>/dev/null || { echo "$compiler is in the way" >&2; exit 1; }
done
in_venv python wheel_trial.py
in_venv fxpass verify wheel_trial.py:network --batch 2 --image 32
in_venv fxpass profile wheel_trial.py:network --batch 2 --image 32
echo "the wheel works: $(basename "$OLDPWD"/out/dist/*.whl)"
