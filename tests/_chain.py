"""One small network twice: with eager's functions and with the operators, for the rules of autograd."""

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
    q, m = ops.relu(ops.conv2d(padded, t, v))
    q = q[:, :, :11, :11].flatten(1)
    return ops.linear(q, ops.bitmap(q), u).pow(2).sum()


BOTH = {"eager": eager, "ours": ours}
