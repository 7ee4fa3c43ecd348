"""One call of each spelling of each row of the table, on tensors small enough to look inside.

A new row needs one line in EXAMPLES:

    "layer_norm": example([4], module=([4],), x=(2, 3, 4)),
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench import _models
from fxpass.edges.op import Op


def image(n: int) -> tuple[int, ...]:
    """The shape of an input with n spatial dimensions."""
    return (2, 3, *(6,) * n)


Input = tuple[int, ...] | Tensor
"""The shape of an input with a gradient; or the input itself, without one."""


@dataclass(frozen=True)
class Example:
    """How a row is called; see `example`."""

    calls: list[tuple[Any, ...]]
    module: tuple[Any, ...]
    x: Input
    own: dict[str, tuple[Any, ...]]
    shapes: dict[str, tuple[int, ...]]


def example(
    *arguments: Any,
    module: tuple[Any, ...] = (),
    x: Input = (2, 3, 6, 6),
    more: tuple[tuple[Any, ...], ...] = (),
    own: dict[str, tuple[Any, ...]] | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> Example:
    """How a row is called.

    Args:
        arguments: those of its functions and methods, after the input.
        module: those of its modules' constructors.
        x: the input's shape; or the input, if it is one of integers.
        more: further arguments of the functions, because the row speaks of all of them.
        own: arguments of single spellings, by name (`chunk`, `Unflatten`).
        shapes: the input's shape for single spellings, by name.

    """
    return Example([arguments, *more], module, x, own or {}, shapes or {})


def trained(*shape: int) -> Tensor:
    """A parameter, or an input; the same in every run, no value twice, none of them special."""
    count = torch.Size(shape).numel()
    values = torch.linspace(-3, 3.7, count)[torch.randperm(count, generator=_generator())]
    return values.view(shape).requires_grad_()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _spatial(name: str, *arguments: Any, module: tuple[Any, ...]) -> dict[str, Example]:
    """An op that exists in one to three dimensions."""
    return {f"{name}{n}d": example(*arguments, module=module, x=image(n)) for n in (1, 2, 3)}


_OF_DIMENSIONS = {f"{d}ropout{n}d": image(n) for n in (1, 2, 3) for d in "dD"}

EXAMPLES: dict[str, Example] = {
    "relu": example(),
    "hardtanh": example(),
    "relu6": example(),
    "leaky_relu": example(),
    "elu": example(),
    "hardswish": example(),
    "hardsigmoid": example(),
    "silu": example(),
    "mish": example(),
    "gelu": example(),
    "softplus": example(),
    **_spatial("batch_norm", module=(3,)),
    "batch_norm": example(torch.zeros(3), torch.ones(3), trained(3), trained(3), True),
    "conv1d": example(trained(2, 3, 3), module=(3, 2, 3), x=image(1)),
    "conv2d": example(trained(2, 3, 3, 3), module=(3, 2, 3)),
    "conv3d": example(trained(2, 3, 3, 3, 3), module=(3, 2, 3), x=image(3)),
    "linear": example(trained(5, 6), trained(5), module=(6, 5), x=(4, 6)),
    **_spatial("max_pool", 2, module=(2,)),
    **_spatial("avg_pool", 2, module=(2,)),
    **_spatial("adaptive_avg_pool", 2, module=(2,)),
    **_spatial("adaptive_max_pool", 2, module=(2,)),
    "view": example(
        0,
        own={
            "Flatten": (),
            "Unflatten": (1, (2, 3)),
            "unflatten": (1, (2, 3)),
            "Identity": (),
            "reshape": ((-1,),),
            "view": (-1,),
            "squeeze": (),
            "permute": ((1, 0),),
            "transpose": (0, 1),
            "t": (),
            "chunk": (2,),
            "split": (2,),
            "narrow": (0, 0, 1),
            "expand": (2, 4, 6),
        },
        x=(4, 6),
    ),
    "contiguous": example(),
    "dropout": example(0.5, True, more=((0.5, False),), shapes=_OF_DIMENSIONS),
    "alpha_dropout": example(0.5, True, more=((0.5, False),)),
    "add": example(trained(6)),
    "add_": example(trained(6)),
    "mul": example(trained(6), more=((2.0,),)),
    "cat": example(),
    "stack": example(),
    "sigmoid": example(),
    "tanh": example(),
    "stochastic_depth": example(0.5, "row"),
    "pad": example(
        (1, 1),
        "reflect",
        more=(((1, 1),), ((1, 1), "replicate"), ((1, 1), "circular")),
        x=image(1),
    ),
    "sum": example(),
    "shape": example(own={"getattr": ("shape",)}),
    "celu": example(),
    "selu": example(),
    "threshold": example(0.1, 20.0, module=(0.1, 20.0)),
    "hardshrink": example(),
    "softshrink": example(),
    "logsigmoid": example(),
    "layer_norm": example([6], trained(6), module=([6],)),
    "group_norm": example(3, trained(3), module=(3, 3)),
    "instance_norm": example(module=(3,), shapes={f"InstanceNorm{n}d": image(n) for n in (1, 3)}),
    "prelu": example(trained(3)),
    "glu": example(),
    "conv_transpose1d": example(trained(3, 2, 3), module=(3, 2, 3), x=image(1)),
    "conv_transpose2d": example(trained(3, 2, 3, 3), module=(3, 2, 3)),
    "conv_transpose3d": example(trained(3, 2, 3, 3, 3), module=(3, 2, 3), x=image(3)),
    "softmax": example(1, module=(1,)),
    "log_softmax": example(1, module=(1,)),
    "softmax2d": example(),
    "softmin": example(1, module=(1,)),
    "tanhshrink": example(),
    "embedding": example(trained(4, 3), module=(4, 3), x=torch.tensor([[1, 2], [0, 3]])),
    **{
        f"{name.lower()}_pad": example(
            module=(1, *value), shapes={f"{name}Pad{n}d": image(n) for n in (1, 3)}
        )
        for name, value in {
            "Constant": (0.5,),
            "Zero": (),
            "Reflection": (),
            "Replication": (),
            "Circular": (),
        }.items()
    },
}

_TAKE_A_LIST = ("cat", "stack")


@dataclass(frozen=True)
class Called:
    """One call of one spelling.

    Attributes:
        text: what is called.
        run: calls it with the input.
        parameters: the other tensors that want a gradient.
        x: the input, or its shape.
        may_write: whether the call is one that writes its result over the input.

    """

    text: str
    run: Callable[[Tensor], Any]
    parameters: tuple[Tensor, ...]
    x: Input
    may_write: bool

    def input(self) -> Tensor:
        """The input, a leaf; the same each time."""
        return self.x.clone() if isinstance(self.x, Tensor) else trained(*self.x)

    def __repr__(self) -> str:
        return self.text


def calls_of(op: Op) -> dict[str, list[Called]]:
    """All calls of a row, by spelling."""
    given = EXAMPLES[op.name]
    named = [_imported(name) for name in op.names]
    methods = [getattr(Tensor, name) for name in op.methods]
    found = {f"nn.{kind.__name__}": _of_module(kind, given) for kind in op.modules}
    for function in (*op.functions, *named):
        found[_path(function)] = _of_function(op, function, _path(function), given)
    for method in methods:
        name = f"Tensor.{method.__name__}"
        found[name] = _of_function(op, method, name, given)
    return {name: list(calls) for name, calls in found.items()}


def _path(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', None) or 'torch'}.{function.__name__}"


def _imported(path: str) -> Callable[..., Any]:
    _models.torchvision_models()  # such functions are torchvision's
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def _of_module(kind: type[nn.Module], given: Example) -> Iterator[Called]:
    name = kind.__name__
    arguments = given.own.get(name, given.module)
    for options in _options(kind):
        for training in (True, False):
            torch.manual_seed(0)
            module = kind(*arguments, **options).train(training)
            text = f"nn.{name}(*{arguments}, **{options}).train({training})"
            shape = given.shapes.get(name, given.x)
            yield Called(text, module, tuple(module.parameters()), shape, bool(options))


def _of_function(
    op: Op, function: Callable[..., Any], text: str, given: Example
) -> Iterator[Called]:
    name = function.__name__
    for arguments in [given.own[name]] if name in given.own else given.calls:
        for options in _options(function):
            yield Called(
                f"{text}(x, *{_shown(arguments)}, **{options})",
                partial(_call, function, arguments, options, op.name in _TAKE_A_LIST),
                tuple(a for a in arguments if isinstance(a, Tensor) and a.requires_grad),
                given.shapes.get(name, given.x),
                bool(options) or op.writes_input or name.endswith("_"),
            )


def _shown(arguments: tuple[Any, ...]) -> list[Any]:
    return [f"trained{tuple(a.shape)}" if isinstance(a, Tensor) else a for a in arguments]


def _options(function: Callable[..., Any]) -> list[dict[str, bool]]:
    """In place too, where there is a parameter of that name."""
    try:
        takes = "inplace" in inspect.signature(function).parameters
    except ValueError:  # built in
        takes = False
    return [{}, {"inplace": True}] if takes else [{}]


def _call(function: Any, arguments: Any, options: Any, as_list: bool, x: Tensor) -> Any:
    return function([x, x * 2] if as_list else x, *arguments, **options)
