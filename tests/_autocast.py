"""A model in a CPU autocast region of its own, eager and compiled."""

import torch
import torch.nn.functional as F
from _exact import assert_exact
from _twins import saved_bytes
from torch import nn

import fxpass

BF16 = torch.bfloat16


def region(dtype=BF16, **arguments):
    return torch.autocast("cpu", dtype, **arguments)


class Within(nn.Module):
    """The model, called in a region of its own."""

    def __init__(self, inner, make=region):
        super().__init__()
        self.inner, self.make = inner, make

    def forward(self, *inputs):
        with self.make():
            return self.inner(*inputs)

    def explain(self):
        return self.inner.explain()


def pair(model, make=region):
    return Within(model, make), Within(fxpass.compile(model), make)


def images(*shape, grad=True):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(*(shape or (2, 3, 12, 12)), generator=generator).requires_grad_(grad)


def check(model, *inputs, make=region, share=1.0, **arguments):
    """Equal to eager, and at most this share of its bytes; returns the compiled model."""
    eager, ours = pair(model, make)
    assert_exact(eager, *inputs, compiled=ours, **arguments)
    assert saved_bytes(ours, *inputs) <= share * saved_bytes(eager, *inputs), ours.explain()
    return ours.inner


def conv_relu():
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)),
    )


class Branches(nn.Module):
    """Pools and padding that are run again on what is kept for the activation."""

    def __init__(self, pools=(F.max_pool3d, F.avg_pool3d)):
        super().__init__()
        self.pools = pools
        self.first, self.norm = nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4)
        self.a, self.b, self.c = (nn.Conv3d(4, 2, 2) for _ in range(3))

    def forward(self, x):
        y = self.first(x)
        pooled = [pool(y, 2) for pool in self.pools]
        outer = F.pad(self.norm(y), [1] * 6, mode="replicate")
        return self.a(pooled[0]) + self.b(pooled[1]), self.c(outer), F.silu(y)
