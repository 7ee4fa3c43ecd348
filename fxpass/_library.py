"""Loads the operators torch.ops.fxpass.* when imported."""

from __future__ import annotations

from pathlib import Path

import torch

try:
    # After torch, whose libraries it links to. It lies beside the operators, wherever that is.
    from fxpass import _C
except ImportError as error:
    raise ImportError(
        "fxpass: the native library is missing or does not fit this torch "
        f"({torch.__version__}): {error}. Install torch==2.13.0, then fxpass with "
        "`pip install --no-build-isolation .` from the repository"
    ) from error

_FOLDER = Path(_C.__file__).parent
torch.ops.load_library(str(_FOLDER / "libfxpass_ops.so"))

cmake_prefix_path = str(_FOLDER / "share" / "cmake")
"""What CMAKE_PREFIX_PATH must hold for `find_package(fxpass)` to find this package."""

from fxpass import _fake  # noqa: E402, F401 (needs the operators)
