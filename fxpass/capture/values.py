"""`Value`: a proxy that answers as a tensor would, or says that the trace loses something.

torch.fx's own proxy is silently wrong where this one is not: `isinstance(x, torch.Tensor)`,
`hasattr(x, "anything")`, `x.flag = 1`, `a += b` (recorded there as `a + b`), `copy.deepcopy(x)`.
"""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.fx import Node, Proxy

from fxpass.capture.bytecode import (
    compares_next_with_none,
    is_assertion,
    is_assertion_message,
    is_plain_access,
)
from fxpass.capture.checks import expect_length, expect_true
from fxpass.capture.kinds import IMMUTABLE, Kind
from fxpass.capture.losses import caller, is_fxpass_or_torch, location_of_frame

if TYPE_CHECKING:
    from fxpass.capture.tracer import Tracer

IN_PLACE: dict[str, str] = {
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "itruediv": "truediv",
    "ifloordiv": "floordiv",
    "imod": "mod",
    "ipow": "pow",
    "imatmul": "matmul",
    "iand": "and_",
    "ior": "or_",
    "ixor": "xor",
    "ilshift": "lshift",
    "irshift": "rshift",
}
"""The augmented assignments, and what each means for an immutable left side."""

_NOT_IN_PLACE = frozenset({"grad", "grad_fn", "_backward_hooks", "_grad_fn", "names"})
_OWN = frozenset({"node", "tracer"})


class Value(Proxy):
    """A value of the traced program."""

    node: Node
    tracer: Tracer

    @property
    def kind(self) -> Kind:
        """The type that this value will have at run time, see kinds.py."""
        return self.tracer.kinds[self.node]

    @property
    def may_be_none(self) -> bool:
        """Whether nobody knows that this value is not None."""
        return self.kind is None

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """What isinstance() sees; everybody else is told the truth.

        C++ code that takes this object for a tensor would crash.
        """
        if not self.tracer.watch.in_isinstance:
            return type(self)
        kind = self.kind
        if kind is not None and kind is not object:
            return kind
        if is_fxpass_or_torch(caller().f_code.co_filename):
            return type(self)
        self._lose("asks isinstance() of a value whose type is known only at run time")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            if name.startswith("__array"):
                self._lose("gives a traced tensor to numpy")
            raise AttributeError(name)
        frame, kind = caller(), self.kind
        if kind is torch.Tensor:
            if not hasattr(torch.Tensor, name) or name in _NOT_IN_PLACE:
                self._lose(f"reads the attribute '{name}' of a tensor")
        elif kind is None or kind is object:
            if not is_fxpass_or_torch(frame.f_code.co_filename) and (
                not is_plain_access(frame) or compares_next_with_none(frame)
            ):
                self._lose(f"tests the attribute '{name}' of a value known only at run time")
        elif not hasattr(kind, name):
            raise AttributeError(f"'{kind.__name__}' object has no attribute '{name}'")
        return Member(self, name)

    def __format__(self, spec: str) -> str:
        if is_assertion_message(caller()):
            return "a value known only at run time"
        self._lose("writes a value known only at run time into a string")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OWN:
            self._lose(f"assigns the attribute '{name}' of a traced value")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._lose(f"deletes the attribute '{name}' of a traced value")

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __bool__(self) -> bool:
        frame = caller()
        if is_assertion(frame):
            where = location_of_frame(frame)
            self.tracer.create_proxy("call_function", expect_true, (self, where), {})
            return True
        self._lose("decides on a value known only at run time (if, while, and, or, not)")

    def __iter__(self) -> Iterator[Any]:
        frame = caller()
        if frame.f_code.co_code[frame.f_lasti] == dis.opmap["UNPACK_SEQUENCE"]:
            return self._unpack(frame.f_code.co_code[frame.f_lasti + 1])
        self._lose("iterates over a value whose length is known only at run time")

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self._lose("copies a traced value")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self._lose("copies or pickles a traced value")

    def _unpack(self, count: int) -> Iterator[Any]:
        """`a, b = self`; of a tensor, Python takes the rows by unbind()."""
        rows: Any = self.unbind(0) if self.kind is torch.Tensor else self
        self.tracer.create_proxy("call_function", expect_length, (rows, count), {})
        return iter([rows[i] for i in range(count)])

    def _lose(self, reason: str) -> NoReturn:
        self.tracer.lose(reason, sys._getframe(1))


class Member(Value):
    """An attribute of a value: a node of its own only if it is not called as a method."""

    def __init__(self, root: Value, name: str) -> None:
        object.__setattr__(self, "_root", root)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_node", None)
        object.__setattr__(self, "tracer", root.tracer)

    @property
    def node(self) -> Node:  # type: ignore[override]
        """The node that reads the attribute, made when first needed."""
        if self._node is None:
            made = self.tracer.create_proxy("call_function", getattr, (self._root, self._name), {})
            object.__setattr__(self, "_node", made.node)
        return self._node

    @property
    def may_be_none(self) -> bool:
        """Whether nobody knows that this attribute is not None; makes no node."""
        return self._root.kind in (None, object)

    def __call__(self, *args: Any, **kwargs: Any) -> Proxy:
        """Records the call of a method."""
        return self.tracer.create_proxy("call_method", self._name, (self._root, *args), kwargs)


def _define_in_place(name: str, plain: str) -> None:
    def augmented(self: Value, other: Any) -> Proxy:
        target = getattr(operator, plain if self.kind in IMMUTABLE else name)
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    setattr(Value, f"__{name}__", augmented)


def _define_lossy(name: str, reason: str) -> None:
    def lossy(self: Value, *_: Any) -> NoReturn:
        self._lose(reason)

    setattr(Value, f"__{name}__", lossy)


for _name, _plain in IN_PLACE.items():
    _define_in_place(_name, _plain)
for _name in ("len", "int", "float", "complex", "contains", "delitem"):
    _define_lossy(_name, f"asks for the {_name} of a value known only at run time")
