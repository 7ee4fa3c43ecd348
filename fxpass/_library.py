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

torch.ops.load_library(str(Path(_C.__file__).parent / "libfxpass_ops.so"))

from fxpass import _fake  # noqa: E402, F401 (needs the operators)
