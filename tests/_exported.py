"""An exported model in the oracle: what TorchScript loads, as a plain module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxpass


class Loaded(nn.Module):
    """A TorchScript module whose tensors have the names that they have in the file.

    TorchScript's own containers of parameters cannot be written to, which `record` has to do.
    """

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self._parameters.update(script.named_parameters())
        self._buffers.update(script.named_buffers())
        self.__dict__["script"] = script

    def train(self, mode: bool = True) -> Loaded:
        self.script.train(mode)
        return super().train(mode)

    def forward(self, *inputs: Any) -> Any:
        return self.script(*inputs)


def exported(compiled: Any, directory: Path) -> torch.jit.ScriptModule:
    """The compiled model, written to a file and read from it."""
    path = directory / "model.pt"
    fxpass.export_torchscript(compiled, path)
    return torch.jit.load(path)


class Unpacks(nn.Module):
    """Here, where pytest leaves asserts as they are."""

    def forward(self, x: Tensor) -> Any:
        n, c, h, w = x.shape
        assert c == 3
        a, b = torch.relu(x).view(n, c * h, w).chunk(2, dim=2)
        return (a + b).flatten(1), F.interpolate(x, scale_factor=2, mode="bilinear")
