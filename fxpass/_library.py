"""Loads the operators torch.ops.fxpass.* when imported."""

from __future__ import annotations

from pathlib import Path

import torch

_PATH = Path(__file__).parent / "libfxpass_ops.so"
if not _PATH.exists():
    raise ImportError(
        f"fxpass: the operator library {_PATH.name} is not beside the package; install it with "
        "`pip install --no-build-isolation .` from the repository (torch==2.13.0 first)"
    )
torch.ops.load_library(str(_PATH))
