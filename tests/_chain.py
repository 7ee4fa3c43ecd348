"""One small network, and each operator, twice: with eager's functions and with ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from _bits import twin, values
from torch import Tensor

ops = torch.ops.fxpass

Step = Callable[..., Tensor]


def parameters() -> list[Tensor]:
    """Input, two convolution weights, bias, linear weight: leaves that need gradients."""
    made = [
        values((4, 8, 24, 24), seed=1),
        values((8, 8, 3, 3), seed=2),
        values((8, 8, 3, 3), seed=3),
        values((8,), seed=4),
        values((10, 8 * 11 * 11), seed=5),
    ]
    return [twin(t, requires_grad=True) for t in made]


def eager(x: Tensor, v: Tensor, w: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """relu, conv, relu (read by two), conv, relu, pool, flatten, linear."""
    y = torch.relu(x)
    y = torch.relu(F.conv2d(y, v, padding=1))
    z = F.conv2d(y, w, b, padding=1) + F.avg_pool2d(y, 3, 1, 1)
    p = F.max_pool2d(torch.relu(z), 2)
    q = torch.relu(F.conv2d(F.pad(p, [1, 1, 1, 1], "reflect"), v, stride=1))[:, :, :11, :11]
    return F.linear(q.flatten(1), u).pow(2).sum()


def ours(x: Tensor, v: Tensor, w: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """The same, as the pass writes it."""
    y, r = ops.relu(x)
    y, s = ops.relu(ops.conv2d(y, r, v, None, [1], [1]))
    z = ops.conv2d(y, s, w, b, [1], [1]) + ops.avg_pool2d(y, [3], [1], [1])
    p = ops.relu_max_pool2d(z, [2])
    padded, t = ops.pad(p, ops.bitmap(p), [1, 1, 1, 1], "reflect")
    q, _ = ops.relu(ops.conv2d(padded, t, v))
    q = q[:, :, :11, :11].flatten(1)
    return ops.linear(q, ops.bitmap(q), u).pow(2).sum()


BOTH = {"eager": eager, "ours": ours}


class Stop(Exception):
    """What `stop` raises."""


def stop(gradient: Tensor) -> None:
    """A hook that ends a backward in its middle."""
    raise Stop


def flush() -> None:
    """Ends what a backward that raised left behind.

    Its tasks stay in the queue of its thread, in eager too, until that thread's next backward.
    """
    torch.ones((), requires_grad=True).backward()


def sigmoid(x: Tensor) -> Tensor:
    """Whose result is made again."""
    handle = ops.rerun_activation(x, None, "sigmoid", [], True)
    y = x.sigmoid()
    return ops.keep_result(y, x, ops.bind(handle, y))


# One input, one output. Those of SINGLE have a graph node, ours or eager's, that is looked at.
SINGLE = {
    "relu": lambda x: ops.relu(x)[0],
    "relu_": lambda x: ops.relu_(x * 1)[0],
    "conv2d": lambda x: ops.conv2d(x, ops.bitmap(x), torch.ones(2, 2, 2, 2)),
    "conv_transpose2d": lambda x: ops.conv_transpose2d(x, ops.bitmap(x), torch.ones(2, 2, 2, 2)),
    "linear": lambda x: ops.linear(x, ops.bitmap(x), torch.ones(3, 6, requires_grad=True)),
    "max_pool2d": lambda x: ops.max_pool2d(x, [2]),
    "max_pool2d_with_indices": lambda x: ops.max_pool2d_with_indices(x, [2])[0],
    "relu_max_pool2d": lambda x: ops.relu_max_pool2d(x, [2]),
    "max_pool3d": lambda x: ops.max_pool3d(x, [2]),
    "avg_pool2d": lambda x: ops.avg_pool2d(x, [2]),
    "adaptive_avg_pool2d": lambda x: ops.adaptive_avg_pool2d(x, [2, 2]),
    "adaptive_max_pool2d": lambda x: ops.adaptive_max_pool2d(x, [2, 2])[0],
    "pad": lambda x: ops.pad(x, None, [1, 1, 1, 1], "reflect")[0],
    "keep_input": lambda x: ops.keep_input(F.layer_norm(x, [6]), x, ops.bitmap(x)),
    "keep_result": sigmoid,
}

ALL = {**SINGLE, "conv2d and relu": lambda x: ops.conv2d(*ops.relu(x), torch.ones(2, 2, 2, 2))}
ALL_EAGER = {
    "relu": torch.relu,
    "relu_": lambda x: (x * 1).relu_(),
    "conv2d": lambda x: F.conv2d(x, torch.ones(2, 2, 2, 2)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, torch.ones(2, 2, 2, 2)),
    "linear": lambda x: F.linear(x, torch.ones(3, 6, requires_grad=True)),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d_with_indices": lambda x: F.max_pool2d(x, 2),
    "relu_max_pool2d": lambda x: F.max_pool2d(x.relu(), 2),
    "max_pool3d": lambda x: F.max_pool3d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "pad": lambda x: F.pad(x, [1, 1, 1, 1], "reflect"),
    "keep_input": lambda x: F.layer_norm(x, [6]),
    "keep_result": torch.sigmoid,
    "conv2d and relu": lambda x: F.conv2d(x.relu(), torch.ones(2, 2, 2, 2)),
}
