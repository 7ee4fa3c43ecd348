"""Loads the operators torch.ops.fxpass.* when imported."""

from __future__ import annotations

from pathlib import Path

import torch

from fxpass._torch_version import check_torch

_BUILD = "`pip install --no-build-isolation --no-deps .` in fxpass' repository"

try:
    from fxpass._built_for import TORCH
except ModuleNotFoundError as error:
    raise ImportError(f"fxpass: there is no native library here. Build it: {_BUILD}") from error

check_torch(TORCH, torch.__version__)

try:
    # After torch, whose libraries it links to. It lies beside the operators, wherever that is.
    from fxpass import _C
except ImportError as error:
    raise ImportError(
        f"fxpass: the native library, built for torch {TORCH}, cannot be loaded beside torch "
        f"{torch.__version__}: {error}. Build it again: {_BUILD}"
    ) from error

_FOLDER = Path(_C.__file__).parent
torch.ops.load_library(str(_FOLDER / "libfxpass_ops.so"))

cmake_prefix_path = str(_FOLDER / "share" / "cmake")
"""What CMAKE_PREFIX_PATH must hold for `find_package(fxpass)` to find this package."""

from fxpass import _fake  # noqa: E402, F401 (needs the operators)
