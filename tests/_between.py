"""A layer, group or instance norm between what comes before and after it."""

import torch
import torch.nn.functional as F
from _functional import INSTANCE_NORMS, call_norm
from _norms import CONVS
from torch import nn

KINDS = ("layer", "group", "instance")
SHAPE = (8, 16, 24, 24)


def norm_of(kind, shape, **arguments):
    """A norm for values of this shape; layer norm over the last axis, or the last two."""
    if kind == "layer":
        over = shape[-2:] if arguments.pop("two", False) else shape[-1:]
        return nn.LayerNorm(over, **arguments)
    if kind == "group":
        channels = shape[1]
        groups = max(g for g in (1, 2, 3) if channels % g == 0)
        return nn.GroupNorm(groups, channels, **arguments)
    return INSTANCE_NORMS[len(shape) - 3](shape[1], **arguments)


# What the norm reads: something with a handle, or not, or a part of something.
BEFORE = {
    "nothing": lambda x: x,
    "relu": torch.relu,
    "copy": lambda x: F.avg_pool1d(x.flatten(2), 1).view(x.shape),
    "pool of relu": lambda x: F.max_pool1d(torch.relu(x).flatten(2), 3, 1, 1).view(x.shape),
    "part of relu": lambda x: torch.relu(torch.cat([x, x], 1))[:, : x.shape[1]],
    "transposed": lambda x: torch.relu(x.transpose(0, 1)).transpose(0, 1),
}
AFTER = {
    "nothing": lambda x: x,
    "relu": torch.relu,
    "relu_": torch.relu_,
    "silu": F.silu,
    "silu_": lambda x: F.silu(x, inplace=True),
    "sigmoid": torch.sigmoid,
    "gate": lambda x: x * torch.sigmoid(x.mean(-1, keepdim=True)),
}


class Between(nn.Module):
    """A norm between what comes before and after it, and a convolution that reads the result."""

    def __init__(self, kind, shape, before="relu", after="nothing", functional=False, **arguments):
        super().__init__()
        self.norm = norm_of(kind, shape, **arguments)
        self.before, self.after = BEFORE[before], AFTER[after]
        self.functional = functional
        self.reader = CONVS[max(len(shape) - 2, 1)](shape[1], 3, 1)

    def forward(self, x):
        y = self.before(x)
        y = call_norm(self.norm, y) if self.functional else self.norm(y)
        return self.reader(self.after(y))


def with_weight(kind):
    """The argument that gives a norm its parameters, where it has none by default."""
    return {"affine": True} if kind == "instance" else {}
