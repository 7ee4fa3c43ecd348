"""`torch.compile(backend="fxpass")` and the same model in eager: equal, every bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _exact import assert_exact
from torch import Tensor, nn

from bench.dynamo import InEager

OF_DYNAMO = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated"),
]
"""Warnings of what Dynamo itself does when it traces."""

CHANNELS = 8
X = torch.linspace(-2, 2, 4 * CHANNELS * 8 * 8).mul_(40).sin_().mul_(2).view(4, CHANNELS, 8, 8)


def by_dynamo(model: nn.Module, **arguments: Any) -> Any:
    """A copy of the model that Dynamo compiles."""
    return torch.compile(copy.deepcopy(model), backend="fxpass", **arguments)


def assert_dynamo_exact(model: nn.Module, *inputs: Any, dynamic: Any = None, **how: Any) -> Any:
    """Fails unless the model under Dynamo is eager's equal over three steps; returns it."""
    compiled = torch.compile(model, backend="fxpass", dynamic=dynamic)
    return assert_exact(InEager(model), *inputs, compiled=compiled, **how)


class Parts(nn.Module):
    """Three convolutions, two batch norms and dropout, called by the function given."""

    def __init__(self, forward: Callable[[Parts, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(3))
        self.bn, self.bn2 = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)
        self.drop = nn.Dropout(0.3)
        self.call = forward

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


def plain(m: Any, x: Tensor) -> Tensor:
    """What the passes know: a convolution, a batch norm, a ReLU, a convolution."""
    return m.b(F.relu(m.bn(m.a(x))))
