"""Which values to keep so that a step fits and takes the least time: a mixed-integer program.

A value is kept, or restored from others, once. Its bytes count at a moment of the step if it is
kept and not yet let go, or restored already and not yet let go. Of the moments only those at which
the judge has found a plan too large become constraints, one after another (lazy constraints), with
what else is live there taken from the judge. Solver: HiGHS.

A restored value may be let go after each of its readers and be restored again for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import highspy
import numpy as np
from torch.fx import Node

from fxpass.budget.solver import Solver
from fxpass.plan.recipes import Kept
from fxpass.plan.values import Mask, Values

_INFINITE = highspy.kHighsInf
_MIB = float(1 << 20)
_MOST_READERS = 16
"""How often a value that is let go is restored alone; after that once for all that are left."""

_PRICE = 1e5
"""Of a MiB over a limit, in milliseconds."""


@dataclass(frozen=True)
class Moment:
    """The forward or the backward of the op at a place of the graph's order."""

    place: int
    backward: bool


class Selection:
    """The program of one graph."""

    def __init__(
        self,
        values: Values,
        kept_bytes: Mapping[Node, int],
        n_bytes: Mapping[Node, int],
        seconds: Mapping[Node, float],
        seconds_limit: float,
    ) -> None:
        """`kept_bytes`: of a value as it would be kept; `seconds`: of restoring it."""
        self._values = values
        self._kept_bytes, self._n_bytes = kept_bytes, n_bytes
        self._place = {node: i for i, node in enumerate(values.nodes)}
        self._model = Solver()
        self._model.setOptionValue("time_limit", seconds_limit)
        self._model.setOptionValue("mip_rel_gap", 1e-3)
        self._count = 0
        self._order = self._reachable()
        costs = values.costs()
        self._keep: dict[Node, int] = {}
        self._redo: dict[Node, int] = {}
        self._mask: dict[Mask, int] = {}
        self._let_go: dict[Node, int] = {}
        for node in self._order:
            there = self._is_there(node)
            # A norm and its activation are one op, which keeps the norm's input for itself.
            may_keep = node in costs and node not in values.with_norm
            if may_keep or node not in values.sources:
                self._keep[node] = self._variable(0.0 if there else 1e-9 * kept_bytes[node])
            if node in values.sources:
                self._redo[node] = self._variable(1e3 * seconds[node] + 1e-4)
                if n_bytes[node]:
                    again = max(len(values.edges.savers(node)), 1)
                    self._let_go[node] = self._variable(again * 1e3 * seconds[node] + 1e-3)
        for mask, value in values.masks.items():
            self._mask[mask] = self._variable(1e-9 * n_bytes[value] / 32)
        self._first = {node: self._first_reader(node) for node in self._order}
        self._last = {node: self._last_reader(node) for node in self._order}
        self._fetched: dict[tuple[Node, int], int] = {}
        self._held: dict[tuple[Node, int], int] = {}
        self._limits: dict[Moment, int] = {}
        self._rules()

    def _variable(self, cost: float, upper: float = 1.0, integral: bool = True) -> int:
        self._model.addVar(0.0, upper)
        self._model.changeColCost(self._count, cost)
        if integral:
            self._model.changeColIntegrality(self._count, highspy.HighsVarType.kInteger)
        self._count += 1
        return self._count - 1

    def _row(self, low: float, high: float, terms: list[tuple[int, float]]) -> None:
        columns = np.array([column for column, _ in terms], dtype=np.int32)
        factors = np.array([factor for _, factor in terms])
        self._model.addRow(low, high, len(terms), columns, factors)

    def _reachable(self) -> list[Node]:
        todo, seen = [*self._values.needed, *self._values.masks.values()], set()
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += self._values.sources.get(node, ())
        return [node for node in self._values.nodes if node in seen]

    def _is_there(self, node: Node) -> bool:
        return node.op in ("placeholder", "get_attr")

    def _have(self, node: Node) -> list[tuple[int, float]]:
        return [(c[node], 1.0) for c in (self._keep, self._redo) if node in c]

    def _rules(self) -> None:
        for node in self._values.needed:
            self._row(1.0, _INFINITE, self._have(node))
        for mask, value in self._values.masks.items():
            self._row(1.0, _INFINITE, [*self._have(value), (self._mask[mask], 1.0)])
        for node, column in self._redo.items():
            for source in self._values.sources[node]:
                self._row(0.0, _INFINITE, [*self._have(source), (column, -1.0)])
            if node in self._keep:
                self._row(-_INFINITE, 1.0, [(self._keep[node], 1.0), (column, 1.0)])
            if node in self._let_go:
                self._row(0.0, _INFINITE, [(column, 1.0), (self._let_go[node], -1.0)])

    def _readers(self, node: Node) -> list[int]:
        return [self._place[call.node] for call in self._values.edges.savers(node)]

    def _first_reader(self, node: Node) -> int:
        """The place of the first op in the graph, the last in backward, that reads the value."""
        own = self._readers(node)
        users = [self._place[user] for user in node.users]
        return min([*own, *users], default=self._place[node])

    def _last_reader(self, node: Node) -> int:
        return max(self._readers(node), default=-1)

    def live(self, moment: Moment) -> list[tuple[int, float]]:
        """What is live at a moment of what is decided here, in MiB, as terms."""
        terms = []
        for node in self._order:
            if self._is_there(node):
                continue
            if moment.backward:
                alive = self._first[node] <= moment.place
            else:
                alive = self._place[node] <= moment.place
            if node in self._keep and alive:
                terms.append((self._keep[node], self._kept_bytes[node] / _MIB))
            if moment.backward and alive and node in self._let_go:
                terms.append((self._is_held(node, moment.place), self._n_bytes[node] / _MIB))
        for mask, column in self._mask.items():
            if self._place[mask.activation] <= moment.place:
                terms.append((column, self._n_bytes[self._values.masks[mask]] / 32 / _MIB))
        return terms

    def _is_held(self, node: Node, place: int) -> int:
        """A variable: the value is restored, and is there in the backward of the op at `place`."""
        fetched = self._has_been_fetched(node, place)
        if place in self._readers(node):
            return fetched
        key = node, place
        if key not in self._held:
            column = self._held[key] = self._variable(0.0, integral=False)
            terms = [(column, 1.0), (fetched, -1.0), (self._let_go[node], 1.0)]
            self._row(0.0, _INFINITE, terms)
        return self._held[key]

    def _has_been_fetched(self, node: Node, place: int) -> int:
        """A variable: the value is restored, and that by the backward of the op at `place`."""
        if self._last[node] >= place:
            return self._redo[node]
        key = node, place
        if key not in self._fetched:
            column = self._fetched[key] = self._variable(0.0, integral=False)
            for user in self._restored_from(node):
                # What is made of it has been asked for, and it is restored for that.
                other = self._has_been_fetched(user, place)
                terms = [(column, 1.0), (other, -1.0), (self._redo[node], -1.0)]
                self._row(-1.0, _INFINITE, terms)
        return self._fetched[key]

    def _restored_from(self, node: Node) -> list[Node]:
        found = []
        for user in self._order:
            if user in self._redo and node in self._values.sources[user]:
                found.append(user)
        return found

    def limit(self, moment: Moment, mib: float) -> None:
        """What is decided here may take no more than `mib` at that moment; the last word holds.

        More is possible at a price that no time is worth: what else is live there is known of one
        plan only, and may be less in another.
        """
        if moment in self._limits:
            self._model.changeRowBounds(self._limits[moment], -_INFINITE, mib)
            return
        terms = self.live(moment)
        over = self._variable(_PRICE, upper=_INFINITE, integral=False)
        self._limits[moment] = self._model.getNumRow()
        self._row(-_INFINITE, mib, [*terms, (over, -1.0)])

    def solve(self) -> Kept:
        """The fastest choice within all limits, or the one that is over them by the least."""
        self._model.run()
        self._solution = self._model.getSolution().col_value
        chosen = self._solution
        kept = {node for node, column in self._keep.items() if chosen[column] > 0.5}
        masks = [mask for mask, column in self._mask.items() if chosen[column] > 0.5]
        let_go = {node for node, column in self._let_go.items() if chosen[column] > 0.5}
        serves = dict.fromkeys(let_go, (1,) * _MOST_READERS)
        return Kept(kept, {self._values.masks[mask] for mask in masks}, serves)

    def at(self, moment: Moment) -> float:
        """What the choice found takes at a moment, in MiB."""
        terms = self.live(moment)
        values = [*self._solution, *([0.0] * (self._count - len(self._solution)))]
        return sum(values[column] * factor for column, factor in terms)

    @property
    def gap(self) -> float:
        """How far the choice found may be from the fastest one, of its time."""
        return float(self._model.getInfo().mip_gap)
