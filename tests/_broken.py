"""Rewrites and kernels that are wrong on purpose, each at one op of a small network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from _blocks import conv, made, norm
from torch import Tensor, nn
from torch.fx import Node

from fxpass import _lowering
from fxpass.edges import origins_of, rewritten_from
from fxpass.rewrite.context import Context


class Layers(nn.Module):
    """An edge of most kinds."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn1, self.relu = conv(3), norm(), nn.ReLU()
        self.conv1, self.act6, self.conv2 = conv(), nn.ReLU6(), conv()
        self.conv3, self.relu2, self.pool = conv(), nn.ReLU(), nn.MaxPool2d(2)
        self.conv4, self.bn2, self.silu = conv(), norm(), nn.SiLU()
        self.conv5, self.relu3, self.conv6 = conv(), nn.ReLU(), conv()
        self.drop, self.average = nn.Dropout(0.3), nn.AvgPool2d(3, 1, 1)
        self.norm, self.swish = nn.LayerNorm(4), nn.Hardswish()
        self.linear, self.gate = nn.Linear(4, 4), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.relu(self.bn1(self.stem(x))))
        x = self.conv3(self.conv2(self.act6(x)))
        x = self.pool(self.relu2(x))
        x = self.silu(self.bn2(self.conv4(x)))
        x = self.conv6(self.relu3(self.conv5(x)))
        x = F.relu_(x) + x * 0.5
        x = self.drop(x) + self.average(x)
        x = self.linear(self.swish(self.norm(x)))
        return x * self.gate(x)


class WrongGradient(torch.autograd.Function):
    """The value itself; of its gradient one element that no ReLU drops is wrong by one bit."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.reaches_on = (y > 0) & (y < 6)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone().contiguous()
        at = (grad.abs() * ctx.reaches_on).argmax()
        grad.view(-1)[at : at + 1].view(torch.int32).bitwise_xor_(1 << 20)
        return grad


# ---- what can be wrong with a node of the rewritten graph ----------------------------------------

Change = Callable[[Node], None]


def wrong_gradient(node: Node) -> None:
    """The kernel's backward is wrong by one bit in one element."""
    right = node.target

    def wrong(*args: Any) -> Any:
        result = right(*args)
        if isinstance(result, tuple):
            return WrongGradient.apply(result[0]), *result[1:]
        return WrongGradient.apply(result)

    wrong.__name__ = "wrong"
    node.target = wrong


def wrong_later(node: Node) -> None:
    """The same, but for the first call."""
    right = node.target
    calls: list[int] = []

    def wrong(x: Tensor) -> Any:
        y, handle = right(x)
        calls.append(1)
        return (WrongGradient.apply(y) if len(calls) > 1 else y), handle

    wrong.__name__ = "wrong"
    node.target = wrong


def wrong_handle(node: Node) -> None:
    """A ReLU whose handle restores something else, and says that it was this."""
    right = node.target

    def wrong(x: Tensor) -> Any:
        y, _ = right(x)
        other = torch.ops.fxpass.rerun_activation(x, None, "hardtanh", [0.0, 1.0], True)
        return y, torch.ops.fxpass.bind(other, y, None)

    wrong.__name__ = "wrong"
    node.target = wrong


def noise_is_written_to(node: Node) -> None:
    """What should only look at the values of a dropout changes them."""
    node.target = _doubled


def _doubled(y: Tensor) -> Tensor:
    return y.data.mul_(2)


def argument(**by_index: Any) -> Change:
    """The operator is given other arguments: `_1=` is that at place 1."""

    def change(node: Node) -> None:
        args = list(node.args)
        for place, value in by_index.items():
            index = int(place[1:])
            args[index] = value(args[index]) if callable(value) else value
        node.args = tuple(args)

    return change


def _backwards(items: Any) -> Any:
    return items[::-1]


# ---- the list ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Break:
    """One thing that is wrong.

    Attributes:
        what: in words.
        at: the captured node at whose rewriting it is; the last of those that became one op.
        op: the operator there that `change` changes.
        arguments: of the captured op, as its rewriting is told wrongly.
        named: what the message must say of the op.
        edge: the value whose edge it must name.
        network: which of `_blocks.NETWORKS`; None: Layers.

    """

    what: str
    at: str
    named: str
    edge: str
    op: str = ""
    change: Change = wrong_gradient
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    network: str | None = None

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Layers() if self.network is None else made(self.network)

    def apply(self, monkeypatch: Any) -> None:
        """From here on everything that is compiled has this wrong."""
        if self.arguments:
            self._tell_the_rewriting(monkeypatch)
        else:
            self._change_the_graph(monkeypatch)

    def _tell_the_rewriting(self, monkeypatch: Any) -> None:
        right = Context.call

        def wrong(context: Context, node: Node) -> Any:
            call = right(context, node)
            if call is None or node.name != self.at:
                return call
            return dataclasses.replace(call, arguments=call.arguments | self.arguments)

        monkeypatch.setattr(Context, "call", wrong)

    def _change_the_graph(self, monkeypatch: Any) -> None:
        right = _lowering.rewrite

        def wrong(edges: Any, *args: Any) -> None:
            right(edges, *args)
            for node in edges.graph.nodes:
                is_op = getattr(node.target, "__name__", "") == self.op
                if is_op and rewritten_from(node) and origins_of(node)[-1].name == self.at:
                    self.change(node)

        monkeypatch.setattr(_lowering, "rewrite", wrong)


_BN1, _BN2 = "BatchNorm2d bn1 + ReLU relu", "BatchNorm2d bn2 + SiLU silu"
_POOL = "ReLU relu2 + MaxPool2d pool"
_IN_BACKWARD = ", seen in the backward of"

BREAKS = (
    # Rewritings that are told wrongly what the op is.
    Break(
        "a convolution is dilated",
        *("conv2", "Conv2d conv2", "act6"),
        arguments={"padding": (2, 2), "dilation": (2, 2)},
    ),
    Break("a batch norm has another eps", "bn1", _BN1, "relu", arguments={"eps": 1e-3}),
    Break(
        "a max pool has other windows",
        *("pool", _POOL, "relu2"),
        arguments={"kernel_size": 3, "stride": 2, "padding": 1},
    ),
    Break(
        "an average pool does not count its padding",
        *("average", "AvgPool2d average", "add"),
        arguments={"count_include_pad": False},
    ),
    Break(
        "an in-place ReLU writes elsewhere",
        *("relu_", "relu_", "relu_"),
        arguments={"inplace": False},
    ),
    Break(
        "a layer norm is restored with another eps",
        *("norm", f"LayerNorm norm{_IN_BACKWARD} Hardswish swish", "norm"),
        arguments={"eps": 1e-2},
    ),
    # Graphs with wrong arguments.
    Break(
        "another activation behind a batch norm",
        *("silu", _BN2, "silu", "batch_norm", argument(_11="mish")),
    ),
    Break(
        "a batch norm does not count its batches",
        *("silu", _BN2, "silu", "batch_norm", argument(_6=None)),
    ),
    Break(
        "a linear layer has lost its bias",
        *("linear", "Linear linear", "swish", "linear", argument(_3=None)),
    ),
    Break(
        "another activation is run again",
        *("swish", f"Hardswish swish{_IN_BACKWARD} Linear linear", "swish"),
        *("rerun_activation", argument(_2="silu")),
    ),
    Break(
        "a result is restored as another's",
        *("gate", "Sigmoid gate", "gate", "rerun_activation", argument(_2="tanh")),
    ),
    Break(
        "a sum is restored as a difference",
        *("add", f"add in 3{_IN_BACKWARD} ReLU 3.act, Conv2d 4.conv1", "add"),
        *("rerun_add", argument(_6=-1)),
        network="residual",
    ),
    Break(
        "a max pool is restored with other windows",
        *("_3_pool", f"MaxPool2d 3.pool{_IN_BACKWARD} Conv2d 3.c", "_3_pool"),
        *("rerun_max_pool2d", argument(_2=[1, 1], _4=[0, 0])),
        network="inception",
    ),
    Break(
        "a concatenation is restored in another order",
        *("cat", f"cat in 3{_IN_BACKWARD} Conv2d 4.a", "cat"),
        *("rerun_cat", argument(_0=_backwards, _1=_backwards)),
        network="inception",
    ),
    Break(
        "stochastic depth with another probability",
        *("stochastic_depth", "stochastic_depth in 3.drop", "stochastic_depth"),
        *("stochastic_depth_noise", argument(_1=0.5)),
        network="stochastic depth",
    ),
    # Kernels.
    Break(
        "a ReLU's bitmap holds something else",
        *("relu3", f"ReLU relu3{_IN_BACKWARD} Conv2d conv6", "relu3", "relu", wrong_handle),
    ),
    Break(
        "a mask of noise is written to",
        *("drop", "Dropout drop", "drop", "pack_noise", noise_is_written_to),
    ),
    Break("a ReLU's gradient", "relu3", "ReLU relu3", "relu3", "relu"),
    Break("a convolution's gradient", "conv3", "Conv2d conv3", "conv2", "conv2d"),
    Break("a batch norm's gradient", "relu", _BN1, "relu", "batch_norm"),
    Break("the gradient of a mask", "act6", "ReLU6 act6", "conv1", "activation"),
    Break("the gradient of a code", "pool", _POOL, "relu2", "relu_max_pool2d"),
    Break("a product's gradient", "mul", "mul in 3", "mul", "mul", network="squeeze-excite"),
)
