"""The activations: as modules, as operators, and each between two convolutions."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": lambda **kw: nn.Hardtanh(-0.5, 1.5, **kw),
    "leaky_relu": lambda **kw: nn.LeakyReLU(0.2, **kw),
    "elu": lambda **kw: nn.ELU(0.7, **kw),
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"),
    "softplus": lambda: nn.Softplus(2.0, 3.0),
    "celu": lambda **kw: nn.CELU(0.7, **kw),
    "selu": nn.SELU,
    "threshold": lambda **kw: nn.Threshold(0.3, -1.0, **kw),
    "hardshrink": lambda: nn.Hardshrink(0.3),
    "softshrink": lambda: nn.Softshrink(0.3),
    "logsigmoid": nn.LogSigmoid,
}
_NOT_IN_PLACE = (
    *("none", "gelu", "gelu tanh", "softplus", "hardshrink", "softshrink", "logsigmoid"),
)
ACTIVATIONS |= {
    f"{name}_": partial(made, inplace=True)
    for name, made in ACTIVATIONS.items()
    if name not in _NOT_IN_PLACE
}
# Those that no recipe knows.
OTHERS = {"softsign": nn.Softsign, "tanhshrink": nn.Tanhshrink, "rrelu": nn.RReLU}

# The operators by name: their arguments and eager's functions.
LISTS = {
    "hardtanh": [-1.0, 1.0], "leaky_relu": [0.2], "elu": [0.7], "softplus": [2.0, 3.0],
    "celu": [0.7], "threshold": [0.3, -1.0], "hardshrink": [0.3], "softshrink": [0.3],
}  # fmt: skip
EAGER = {
    "relu": torch.relu,
    "hardtanh": F.hardtanh,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.7),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "mish": F.mish,
    "gelu_none": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "softplus": lambda x: F.softplus(x, 2.0, 3.0),
    "celu": lambda x: F.celu(x, 0.7),
    "selu": F.selu,
    "threshold": lambda x: F.threshold(x, 0.3, -1.0),
    "hardshrink": lambda x: F.hardshrink(x, 0.3),
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "logsigmoid": F.logsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
NAMES = [name for name in ACTIVATIONS if name != "none"]
# In place, eager's backward of these reads the result.
READS_RESULT = ("leaky_relu_", "elu_", "celu_", "selu_")
_FUSED = (
    *("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "mish", "threshold"),
    *(name.rstrip("_") for name in READS_RESULT),
)


def operators_behind_a_batch_norm(name):
    """The operators that batch norm, activation and convolution become."""
    fused = name.rstrip("_") in _FUSED or name in OTHERS
    return ["batch_norm", *([] if fused else ["activation"]), "conv2d"]


class Plain(nn.Module):
    """Convolution, activation, convolution; `before` is called on the first one's result."""

    def __init__(self, name, before=None, channels=4):
        super().__init__()
        self.before = before or (lambda m, y, x: y)
        self.first, self.second = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, 2, 1)
        self.act = (ACTIVATIONS | OTHERS)[name]()
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.second(self.act(self.before(self, self.first(x), x)))


# What the activation reads, and whether that has a handle, by which it is kept.
BEFORE = {
    "convolution": (lambda m, y, x: y, False),
    "relu": (lambda m, y, x: torch.relu(y), True),
    "sum": (lambda m, y, x: y + torch.relu(x * 2), False),
    "dropout of relu": (lambda m, y, x: m.drop(torch.relu(y)), True),
    "view of relu": (lambda m, y, x: torch.relu(y).transpose(2, 3), True),
    "max pool of relu": (lambda m, y, x: F.max_pool2d(torch.relu(y), 3, 1, 1), True),
    "cat": (lambda m, y, x: torch.cat([torch.relu(y[:, :2]), y[:, 2:]], 1), False),
}
