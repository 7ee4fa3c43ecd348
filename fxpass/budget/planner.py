"""`Planner`: measures a model once, and plans it for any memory budget."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import Graph

from fxpass._preserved import preserved
from fxpass.budget.amount import budget_bytes
from fxpass.budget.chain import SCHEDULES, ChainSearch
from fxpass.budget.judge import judge
from fxpass.budget.search import Found, Search
from fxpass.budget.survey import Survey, lacks, survey, time_again
from fxpass.budget.updates import update_bytes
from fxpass.capture import ArgPattern, Capture, OwnForward, capture_unit
from fxpass.edges import Edges, find_edges
from fxpass.errors import BudgetError, TraceError
from fxpass.plan import Plan, Prediction, free_plan
from fxpass.rewrite import rewrite

_STEP = 0.95
"""From one budget to the next in the search for the smallest peak."""


class Planner:
    """The costs of a model with one form of inputs, and plans for it.

    Each op is measured alone, forward and backward, on the values that it has in a forward of the
    example inputs: no more than the values of a forward without gradients and one op's gradients
    are alive at a time. Parameters, buffers and the RNG are left as found.

    Raises TraceError if the model is not one graph: what its parts do in between, nobody can tell.
    """

    def __init__(self, model: nn.Module, example_inputs: tuple[Any, ...]) -> None:
        self._model = model
        pattern, self._inputs = ArgPattern.split(example_inputs, {})
        capture = capture_unit(model, pattern, [])
        if isinstance(capture, OwnForward) or capture.boundaries:
            raise TraceError(_in_parts(capture))
        self._capture = capture
        self._survey = Survey()
        self._search = Search(model, self._edges, self._measure, self._survey)
        self._survey.updates = update_bytes(model)
        self._measure(capture.graph)
        self._search.judged(free_plan)
        self._time_again()
        self._judge()

    def plan_saving(self, saved_budget: int) -> Plan:
        """The fastest plan found that leaves at most so many bytes alive after the forward.

        Of several budgets for the peak this is the one to compare with what other systems call
        activation memory. Raises BudgetError if no such plan is found.
        """
        found = self.free
        budget = max(self.eager.peak_bytes, found.verdict.peak_bytes)
        if found.verdict.saved_bytes > saved_budget:
            found = self._search.within(budget, saved_budget)
        if found.verdict.saved_bytes > saved_budget:
            raise BudgetError(
                f"fxpass: no plan found that saves at most {saved_budget:,} bytes; the fewest found"
                f" are {found.verdict.saved_bytes:,}",
                found.verdict.saved_bytes,
            )
        return found.plan.predicted(self._prediction(budget, found))

    def plan(self, memory_budget: int | float | str, planner: str = "op") -> Plan:
        """The fastest plan found whose peak is within the budget.

        `planner`: a key of PLANNERS, all of which have the same judge. The plan counts on the
        updates inside backward of the parameters that have them now. Raises BudgetError if there is
        none, which names the smallest peak found, and ValueError for another planner.
        """
        if planner not in PLANNERS:
            known = ", ".join(PLANNERS)
            raise ValueError(f"expected planner to be one of {known}, got {planner!r}")
        updates = update_bytes(self._model)
        if updates != self._survey.updates:
            self._survey.updates = updates
            self._judge()
        budget = budget_bytes(memory_budget, self.eager.peak_bytes)
        found = self.free
        if found.verdict.peak_bytes > budget:
            found = PLANNERS[planner](self, budget)
        if found.verdict.peak_bytes > budget >= self.eager.peak_bytes:
            found = self._dense  # in a model of some numbers ours may take a few bytes more
        if found.verdict.peak_bytes > budget:
            raise BudgetError(
                f"fxpass: no plan found for a memory budget of {budget:,} bytes"
                f"{self._by(planner)}; the smallest peak found for this "
                f"{type(self._model).__name__} with these inputs is "
                f"{found.verdict.peak_bytes:,} bytes, in {found.verdict.peak_at}. Give that much, "
                "or a smaller batch (eager takes "
                f"{self.eager.peak_bytes:,} bytes)",
                found.verdict.peak_bytes,
            )
        return found.plan.predicted(self._prediction(budget, found))

    def _judge(self) -> None:
        self.eager = judge(self._model, self._capture.graph, self._survey)
        self.free = self._search.judged(free_plan)
        self.__dict__.pop("_smallest", None)

    def by_layers(self, budget: int) -> Found:
        """The fastest plan found of all, or the smallest."""
        found = self._search.within(budget)
        if found.verdict.peak_bytes > budget:
            found = min(found, self._smallest, key=lambda f: f.verdict.peak_bytes)
        return found

    def by_blocks(self, schedule: str, budget: int) -> Found:
        """The fastest plan found that runs the model's blocks by a kind of schedule."""
        if len(self._chain) < 2:
            return self.free
        return min(
            self._chain.within(schedule, budget),
            self.free,
            key=lambda f: (f.verdict.peak_bytes > budget, f.verdict.peak_bytes),
        )

    @functools.cached_property
    def _chain(self) -> ChainSearch:
        return ChainSearch(self._search)

    def _by(self, planner: str) -> str:
        if planner == "op":
            return ""
        few = " (the model is no chain of blocks)" if len(self._chain) < 2 else ""
        return f" by the planner {planner!r}{few}; planner='op' considers every value"

    @property
    def smallest_peak_bytes(self) -> int:
        """The smallest peak found, of all plans: a budget below it raises BudgetError."""
        return min(self._smallest, self.free, key=lambda f: f.verdict.peak_bytes).verdict.peak_bytes

    @functools.cached_property
    def _smallest(self) -> Found:
        """The plan of the smallest peak found: each budget a little below the last one's peak."""
        smallest = self.free
        while True:
            found = self._search.within(int(_STEP * smallest.verdict.peak_bytes))
            if found.verdict.peak_bytes >= smallest.verdict.peak_bytes:
                return smallest
            smallest = found

    @property
    def _dense(self) -> Found:
        """Eager as a plan."""
        plan = self.free.plan
        return Found(plan.with_dense(*(choice.value for choice in plan)), self.eager)

    def _prediction(self, budget: int, found: Found) -> Prediction:
        verdict = found.verdict
        return Prediction(
            memory_budget=budget,
            peak_bytes=verdict.peak_bytes,
            saved_bytes=verdict.saved_bytes,
            seconds=verdict.seconds,
            eager_peak_bytes=self.eager.peak_bytes,
            eager_saved_bytes=self.eager.saved_bytes,
            eager_seconds=self.eager.seconds,
            in_backward=bool(self._survey.updates),
            gap=found.gap,
        )

    def _edges(self) -> Edges:
        capture, graph = self._capture, Graph()
        graph.output(graph.graph_copy(capture.graph, {}))
        opaque = frozenset(capture.overridden)
        return find_edges(graph, capture.root, opaque, capture.hooked)

    def _time_again(self) -> None:
        edges = self._edges()
        rewrite(edges, free_plan(edges))
        with preserved(self._model, self._inputs):
            for graph in (self._capture.graph, edges.graph):
                time_again(self._model, graph, tuple(self._inputs), self._survey)

    def _measure(self, graph: Graph) -> None:
        if lacks(self._survey, graph):
            with preserved(self._model, self._inputs):
                survey(self._model, graph, tuple(self._inputs), self._survey)


def _by_blocks(schedule: str, planner: Planner, budget: int) -> Found:
    return planner.by_blocks(schedule, budget)


PLANNERS: dict[str, Callable[[Planner, int], Found]] = {
    "op": Planner.by_layers,
    "free": lambda planner, _: planner.free,
    **{kind: functools.partial(_by_blocks, kind) for kind in SCHEDULES},
}
"""How a plan may be found. op: of all values, which to keep and which to make again, by a solver;
free: no layer is run again; the others: a schedule of the model's blocks (fxpass.schedule)."""


def _in_parts(capture: Capture | OwnForward) -> str:
    lossy = capture.losses if isinstance(capture, OwnForward) else list(capture.boundaries)
    parts = "; ".join(map(str, lossy)) or "the model itself"
    return (
        "fxpass: memory_budget needs a model that traces as one graph, but these parts run on their"
        f" own: {parts}. Compile without a budget, or give a budget to a module below them"
    )
