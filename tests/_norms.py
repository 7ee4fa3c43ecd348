"""Batch norm, activation, convolution: a small model, and what becomes of it."""

from __future__ import annotations

import contextlib
import copy

import torch
import torch.nn.functional as F
from _activations import ACTIVATIONS, OTHERS
from _bits import bits, values
from _twins import saved_bytes
from torch import nn

import fxpass

NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
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

    def norm(self, x):
        if not self.functional:
            return self.bn(x)
        batch = self.bn.training or self.bn.running_mean is None
        means = self.bn.running_mean, self.bn.running_var
        affine = self.bn.weight, self.bn.bias
        return F.batch_norm(x, *means, *affine, batch, self.bn.momentum or 0.2, self.bn.eps)

    def forward(self, x):
        return self.reader(self.act(self.norm(x)))


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


def kept(model, x, x_needs_gradient=True):
    """Saved bytes of (eager, compiled), over those of the input."""
    x = x.detach().clone().requires_grad_(x_needs_gradient)
    both = (copy.deepcopy(model), fxpass.compile(model))
    return tuple(round(saved_bytes(m, x) / x.nbytes, 2) for m in both)
