"""`ArgPattern`: what of a call's arguments a trace depends on.

Tensors become placeholders, wherever they are: positional, by name, inside tuples, lists, dicts and
named tuples. All the rest (the structure, None, numbers, strings, dtypes) is baked into the trace
and so is part of the pattern's key. The call is repeated to `forward` in the form in which it came,
so Python itself binds defaults, `*args` and `**kwargs`.

    m(x, mask=None, scale=2)    ->    m(<tensor>, mask=None, scale=2), values [x]
"""

from __future__ import annotations

import enum
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_PLAIN = frozenset(
    {type(None), bool, int, str, bytes, type(...)}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format}
)
_TENSOR = "tensor"


class UnsupportedArgument(TypeError):
    """An argument that can be neither a placeholder nor a part of the key."""


class ArgPattern:
    """The hashable form of a call; two calls of one pattern can share a trace."""

    __slots__ = ("_hash", "key")

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        self._hash = hash(key)

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ArgPattern:
        """The pattern of one call; raises UnsupportedArgument."""
        return cls.split(args, kwargs)[0]

    @staticmethod
    def split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[ArgPattern, Sequence[Tensor]]:
        """The pattern of one call and the values of its placeholders, in their order."""
        if not kwargs and len(args) == 1 and isinstance(args[0], Tensor):
            return _ONE_TENSOR, args
        values: list[Tensor] = []
        key = (_fold(args, values), _fold(kwargs, values))
        return ArgPattern(key), values

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
        """The placeholder values of a call that has this pattern."""
        pattern, values = self.split(args, kwargs)
        if pattern != self:
            raise UnsupportedArgument(f"expected a call of the form {self}, got {pattern}")
        return values

    def inflate(
        self, value_of: Callable[[str], Any], names: Sequence[str] = ()
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call of this pattern; `value_of(name)` gives each tensor, in placeholder order.

        `names` are the names of the positional parameters, as far as they are known.
        """
        (_, *args), kwargs = self.key
        named = itertools.zip_longest(args, names[: len(args)], fillvalue="input")
        return (
            tuple(_unfold(key, name, value_of) for key, name in named),
            _unfold(kwargs, "input", value_of),
        )

    @property
    def is_flat(self) -> bool:
        """Whether every tensor is an argument itself, and none is inside a list, dict or tuple."""
        args, kwargs = self.key
        items = (*args[1:], *kwargs[2:])
        return not any(key is not _TENSOR and _holds_tensor(key) for key in items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArgPattern) and self.key == other.key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        args, kwargs = self.inflate(lambda _: _Shown())
        shown = [repr(a) for a in args] + [f"{k}={v!r}" for k, v in kwargs.items()]
        return f"({', '.join(shown)})"


class _Shown:
    def __repr__(self) -> str:
        return "<tensor>"


def _fold(value: Any, values: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        values.append(value)
        return _TENSOR
    kind = type(value)
    if kind is tuple or kind is list:
        return (kind, *[_fold(v, values) for v in value])
    if kind is dict or kind is OrderedDict:
        return (kind, _names(value), *[_fold(v, values) for v in value.values()])
    if kind in _PLAIN or isinstance(value, enum.Enum):
        return (kind, value)
    if kind is float or kind is complex:
        # Not the number: 0.0 equals -0.0, and a nan does not equal itself.
        return (kind, repr(value))
    if kind is torch.Size:
        return (kind, *value)
    if kind is slice:
        return (kind, *[_fold(v, values) for v in (value.start, value.stop, value.step)])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (kind, *[_fold(v, values) for v in value])
    raise UnsupportedArgument(f"an argument of type {kind.__name__}")


def _names(value: dict[Any, Any]) -> tuple[Any, ...]:
    for name in value:
        if type(name) not in (str, int):
            raise UnsupportedArgument(f"a dict with a key of type {type(name).__name__}")
    return tuple((type(name), name) for name in value)


def _unfold(key: Any, name: str, value_of: Callable[[str], Any]) -> Any:
    if key is _TENSOR:
        return value_of(name)
    kind, *rest = key
    if kind is dict or kind is OrderedDict:
        keys = [k for _, k in rest[0]]
        return kind((k, _unfold(v, f"{k}", value_of)) for k, v in zip(keys, rest[1:], strict=True))
    if kind is float or kind is complex:
        return kind(rest[0])
    if kind is torch.Size:
        return torch.Size(rest)
    if kind is tuple or kind is list:
        return kind(_children(rest, name, value_of))
    if issubclass(kind, tuple) or kind is slice:
        return kind(*_children(rest, name, value_of))
    return rest[0]


def _holds_tensor(key: Any) -> bool:
    return key is _TENSOR or (isinstance(key, tuple) and any(map(_holds_tensor, key)))


def _children(keys: list[Any], name: str, value_of: Callable[[str], Any]) -> Iterator[Any]:
    return (_unfold(k, name, value_of) for k in keys)


_ONE_TENSOR = ArgPattern(((tuple, _TENSOR), (dict, ())))
