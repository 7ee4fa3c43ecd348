"""Batch norm, activation, convolution: a small model, and what becomes of it."""

from __future__ import annotations

import contextlib

import torch
from _activations import ACTIVATIONS, OTHERS
from _bits import bits, values
from _functional import call_norm
from torch import nn

NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
# To draw from: of the input and of the parameters.
NORM_DTYPES = [
    *[(torch.float32, torch.float32)] * 4,
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16),
]
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Normed(nn.Module):
    """Batch norm, activation, and a convolution (of a matrix: a linear layer) that reads it."""

    def __init__(self, shape, activation="none", reader=True, functional=False, **arguments):
        super().__init__()
        channels, dims = shape[1], max(len(shape) - 2, 1)
        self.bn = NORMS[dims](channels, **arguments)
        self.act = (ACTIVATIONS | OTHERS)[activation]()
        self.functional = functional
        self.reader = nn.Identity()
        if reader:
            layer = nn.Linear if len(shape) == 2 else CONVS[dims]
            self.reader = layer(channels, 3, *([] if len(shape) == 2 else [1]))

    def forward(self, x):
        y = call_norm(self.bn, x) if self.functional else self.bn(x)
        return self.reader(self.act(y))


def fill_parameters(model, kind="normal", seed=0):
    """Fills parameters and running statistics; the latter with what a variance may be."""
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(values(parameter.shape, parameter.dtype, kind, seed=seed + i))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(values(buffer.shape, buffer.dtype, kind, seed=seed + 50))
            elif name.endswith("running_var"):
                buffer.copy_(values(buffer.shape, buffer.dtype, kind, seed=seed + 60).abs())
    return model


def normed(shape, name, dtype=torch.float32, **arguments):
    return fill_parameters(Normed(shape, name, **arguments)).to(dtype)


def crashes_without_gradient(kind, x):
    """Whether torch 2.13 may crash in backward where this norm's input needs no gradient.

    Its group norm of a channels_last image writes to that gradient all the same.
    """
    return kind == "group" and x.dim() > 3 and not x.is_contiguous()


def fate(model, x, write):
    """What becomes of a backward before which something was written to."""
    x = x.clone().requires_grad_()
    given = x * 1
    out = model(given)
    with torch.no_grad():
        write(model, given, out)
    with contextlib.suppress(RuntimeError):
        out.backward(values(out.shape, seed=4))
        return [bits(t).tolist() for t in (x.grad, *(p.grad for p in model.parameters()))]
    return "raises"
