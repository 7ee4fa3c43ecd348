"""Which op of a model's graphs allocates what, while they run.

The programs of a `Unit` tell the `Watcher` before and after each call. It hands the number of the
call to the allocator's counter, which notes it with every buffer, and remembers in which buffer the
result lies and which autograd nodes are new.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node

from fxpass import _C, memory
from fxpass.edges import Origin, origins_of
from fxpass.runtime.program import WATCH


class Key(NamedTuple):
    """A value: the path of the module whose graph it is in, and its name there."""

    unit: str
    name: str


@dataclass(frozen=True)
class Part:
    """One call in the graph of one module, and the values of the captured graph it computes."""

    unit: str
    origins: tuple[Origin, ...]
    op: str
    """The op in a word: the class of the module that is called, or the function's name."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The values that it computes, or that are never there because of it; its own is last."""
        return tuple(Key(self.unit, origin.name) for origin in self.origins)

    @property
    def key(self) -> Key:
        """The value that it computes."""
        return self.keys[-1]

    @property
    def module(self) -> str:
        """The path of the innermost module in whose forward the call was made."""
        return ".".join(path for path in (self.unit, self.origins[-1].module) if path)


class Result(NamedTuple):
    """A tensor that a part has computed.

    Attributes:
        part: the part's number.
        address: where the tensor's storage begins.
        events: how many events the tracker had seen by then.
        node: the sequence number of its autograd node; -1 if it has none.

    """

    part: int
    address: int
    events: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    node: int


class Watcher:
    """Numbers the parts of a model, from 1, and notes their results.

    Attributes:
        parts: by their numbers; 0 is none.
        results: in the order in which they were computed.

    """

    def __init__(self, model: nn.Module, tracker: memory.track) -> None:
        self.parts: list[Part] = [Part("", (Origin("", "", ""),), "")]
        self.results: list[Result] = []
        self.part = 0
        self._tracker = tracker
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._numbers: dict[Node, int] = {}

    def number(self, module: nn.Module, node: Node) -> int:
        """See `Watch`."""
        if node not in self._numbers:
            self._numbers[node] = len(self.parts)
            origins = origins_of(node)
            last, op = origins[-1], origins[-1].op
            if op == f"module {last.module}":
                op = type(module.get_submodule(last.module)).__name__
            self.parts.append(Part(self._paths.get(id(module), ""), origins, op))
        return self._numbers[node]

    def before(self, number: int) -> None:
        """See `Watch`."""
        self.part = number
        _C.memory.set_part(number)

    def after(self, number: int, value: Any) -> None:
        """See `Watch`."""
        if type(value) is Tensor and value.layout == torch.strided:
            address, events = value.untyped_storage().data_ptr(), self._tracker.count_events()
            node = -1 if value.grad_fn is None else value.grad_fn._sequence_nr()
            form = tuple(value.shape), value.dtype
            self.results.append(Result(number, address, events, *form, node))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """In the block, the programs that run tell this watcher."""
        token = WATCH.set(self)
        try:
            yield
        finally:
            WATCH.reset(token)
            self.before(0)
