"""The model compiled again, with some of its ops rewritten and some edges dense, beside eager.

Which ops are rewritten is taken from a run, in the order in which they run there: a rewrite's nodes
say which nodes of the captured graph they stand for. Ops that became one operator are one group.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Node

from fxpass._lowering import Lowering
from fxpass._oracle import Loop, compare, record
from fxpass.edges import Origin, rewritten_from
from fxpass.plan import Plan, key
from fxpass.runtime.module import CompiledModule, compiled_module
from fxpass.runtime.program import WATCH
from fxpass.runtime.unit import Unit


@dataclass(frozen=True)
class Group:
    """Ops of the captured graph that a rewrite turned into one.

    Attributes:
        names: as a plan of the model names their values.
        ops: the ops in words, modules with their paths in the model.
        kinds: the class of each op's module, or the name of its function.

    """

    names: tuple[str, ...]
    ops: tuple[str, ...]
    kinds: tuple[str, ...]


class Trials:
    """Compiles `compiled.original` anew, runs it through the loop, and compares it with eager."""

    def __init__(
        self,
        compiled: CompiledModule,
        inputs: tuple[Any, ...],
        loop: Loop,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """`begin` is told of each trial."""
        self.model = compiled.original
        self.plan = compiled.plan
        self._given = compiled._fxpass_given
        self._inputs, self._loop, self._begin = inputs, loop, begin
        self._expected = record(self.model, inputs, loop)
        self._differs: dict[tuple[tuple[str, ...], frozenset[str] | None], bool] = {}

    def differs(self, dense: Sequence[str] = (), rewritten: Iterable[Group] | None = None) -> bool:
        """Whether the model differs from eager with these values dense.

        `rewritten`: the ops to rewrite; None: all.
        """
        only = None
        if rewritten is not None:
            only = frozenset(name for group in rewritten for name in group.names)
        trial = tuple(dense), only
        if trial not in self._differs:
            self._begin()
            found = record(self._compiled(*trial), self._inputs, self._loop)
            self._differs[trial] = bool(compare(self._expected, found))
        return self._differs[trial]

    def look(self, dense: Sequence[str]) -> tuple[list[Group], Plan]:
        """The ops that are rewritten, in order, and the plan, with these values dense."""
        compiled = self._compiled(dense, None)
        watch = _Order(self.model)
        token = WATCH.set(watch)
        try:
            record(compiled, self._inputs, self._loop)
        finally:
            WATCH.reset(token)
        return watch.groups(), compiled.plan

    def _compiled(self, dense: Sequence[str], only: Collection[str] | None) -> CompiledModule:
        plan = self.plan.with_dense(*dense) if dense else self._given
        lower = Lowering(self.model, plan, only=only)
        return compiled_module(self.model, Unit(self.model, lower, lambda module, losses: None))


class _Order:
    """A `Watch` that notes which groups run, each once."""

    part = 0

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._numbered: list[Group | None] = [None]
        self._ran: dict[Group, None] = {}

    def groups(self) -> list[Group]:
        """Those that ran, in order: all of them, or up to the one that raised an error."""
        return list(self._ran)

    def number(self, module: nn.Module, node: Node) -> int:
        """See `Watch`."""
        origins = rewritten_from(node)
        if not origins:
            return 0
        path = self._paths.get(id(module), "")
        self._numbered.append(self._group(path, origins))
        return len(self._numbered) - 1

    def before(self, number: int) -> None:
        """See `Watch`."""
        group = self._numbered[number]
        if group is not None:
            self._ran.setdefault(group)

    def after(self, number: int, value: Any) -> None:
        """See `Watch`."""

    def _group(self, path: str, origins: tuple[Origin, ...]) -> Group:
        names, ops, kinds = [], [], []
        for origin in origins:
            below = ".".join(part for part in (path, origin.module) if part)
            is_call = origin.op == f"module {origin.module}"
            kind = type(self._model.get_submodule(below)).__name__ if is_call else origin.op
            where = f" in {below}" if below and not is_call else ""
            names.append(key(path, origin.name))
            ops.append(f"{kind} {below}" if is_call else f"{kind}{where}")
            kinds.append(kind)
        return Group(tuple(names), tuple(ops), tuple(kinds))
