"""The plan of a model for a memory budget: a choice, a verdict, and again until it fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn
from torch.fx import Graph, Node

from fxpass.budget.judge import Verdict, judge
from fxpass.budget.select import Moment, Selection
from fxpass.budget.survey import Survey
from fxpass.edges import Edges, origins_of
from fxpass.plan import Choice, Kept, Plan, Recipe, Values, recipes
from fxpass.rewrite import rewrite

_MIB = float(1 << 20)
_ROUNDS = 40
_MOMENTS = 8
"""How many of the moments over the budget become limits in one round, the worst first."""

_PATIENCE = 8
"""How many rounds may pass without a smaller peak, where none has fitted."""


@dataclass(frozen=True)
class Found:
    """A plan, and what the judge says of it.

    Attributes:
        gap: if a solver chose it: how far its time may be from the least, over its time.

    """

    plan: Plan
    verdict: Verdict
    gap: float | None = None


class Search:
    """The plans of one graph.

    Args:
        module: whose graph it is.
        edges: of a copy of the captured graph, which is rewritten there; new at each call.
        measure: completes the survey by the calls of a rewritten graph that it lacks.
        survey: what was measured.
        seconds: the most that one solution of the program may take.

    """

    def __init__(
        self,
        module: nn.Module,
        edges: Callable[[], Edges],
        measure: Callable[[Graph], None],
        survey: Survey,
        seconds: float = 10.0,
    ) -> None:
        self._module, self._edges, self._measure = module, edges, measure
        self.survey, self._seconds = survey, seconds

    def within(self, budget: int, saved_budget: int | None = None) -> Found:
        """The fastest plan found whose peak is at most `budget` bytes, or the smallest found.

        `saved_budget`: the most bytes that may be live when the forward has returned.
        """
        values = self.values()
        selection = self._selection(values)
        places = {node.name: place for place, node in enumerate(values.nodes)}
        between = Moment(len(places), backward=False)
        smallest, least, waited = None, 0, 0
        watched: set[Moment] = set()
        seen = set()
        for _ in range(_ROUNDS):
            kept = selection.solve()
            found, graph = self._found(kept)
            found = replace(found, gap=selection.gap)
            peak, saved = found.verdict.peak_bytes, found.verdict.saved_bytes
            over = max(peak - budget, 0 if saved_budget is None else saved - saved_budget)
            if smallest is None or over < least:
                smallest, least, waited = found, over, 0
            if over <= 0:
                return found
            waited += 1
            choice = frozenset(kept.values), frozenset(kept.masked), frozenset(kept.serves)
            if waited > _PATIENCE or choice in seen:
                break
            seen.add(choice)
            peaks = _by_moment(found.verdict, graph, places)
            worst = sorted(peaks, key=lambda m: peaks[m], reverse=True)[:_MOMENTS]
            watched |= {moment for moment in worst if peaks[moment] > budget}
            for moment in watched:
                others = peaks.get(moment, 0) / _MIB - selection.at(moment)
                selection.limit(moment, budget / _MIB - others)
            if saved_budget is not None:
                others = saved / _MIB - selection.at(between)
                selection.limit(between, saved_budget / _MIB - others)
        assert smallest is not None
        return smallest

    def judged(self, plan_of: Callable[[Edges], Plan]) -> Found:
        """What the judge says of the plan that `plan_of` makes."""
        edges = self._edges()
        plan = plan_of(edges)
        rewrite(edges, plan)
        return Found(plan, self._verdict(edges.graph))

    def found(self, kept: Kept) -> Found:
        """What the judge says of the plan that keeps `kept`, values of `values()`."""
        return self._found(kept)[0]

    def values(self) -> Values:
        """The values of the graph, and what each can be made of, layers run again included."""
        edges = self._edges()
        return Values(edges, heavy_nodes(edges))

    def _found(self, kept: Kept) -> tuple[Found, Graph]:
        edges = self._edges()
        values = Values(edges, heavy_nodes(edges))
        nodes = {node.name: node for node in values.nodes}
        own = Kept(
            {nodes[node.name] for node in kept.values},
            {nodes[node.name] for node in kept.masked},
            {nodes[node.name]: serves for node, serves in kept.serves.items()},
        )
        plan = self._explained(recipes(values, own))
        rewrite(edges, plan)
        return Found(plan, self._verdict(edges.graph)), edges.graph

    def _explained(self, plan: Plan) -> Plan:
        """The plan that says of each value that is run again what that saves and costs."""
        survey = self.survey
        seconds = survey.seconds_by_value()

        def explained(choice: Choice) -> Choice:
            if choice.recipe is not Recipe.RERUN:
                return choice
            mib = survey.n_bytes.get(choice.value, 0) / _MIB
            cost = f"saves {mib:.2g} MiB for {1e3 * seconds.get(choice.value, 0.0):.2g} ms"
            more = ", more than once" if choice.serves else ""
            return replace(choice, reason=f"{choice.reason}: {cost}{more}")

        return Plan(tuple(map(explained, plan)))

    def _verdict(self, graph: Graph) -> Verdict:
        self._measure(graph)
        return judge(self._module, graph, self.survey)

    def kept_bytes(self, values: Values) -> Callable[[Node], int]:
        """What each value takes as it would be kept: dense, or as a bitmap."""
        survey = self.survey

        def kept(node: Node) -> int:
            dense = survey.n_bytes.get(node.name, 0)
            packs = node in values.sparse and not values.strangers[node]
            return min(survey.packed_bytes.get(node.name, dense), dense) if packs else dense

        return kept

    def _selection(self, values: Values) -> Selection:
        survey = self.survey
        n_bytes = {node: survey.n_bytes.get(node.name, 0) for node in values.nodes}
        seconds = survey.seconds_by_value()

        def redo(node: Node) -> float:
            call = values.edges.calls.get(node)
            is_view = call is not None and call.op.name == "view"
            return 0.0 if is_view else seconds.get(node.name, 0.0)

        kept = self.kept_bytes(values)
        kept_bytes = {node: kept(node) for node in values.nodes}
        redo_seconds = {node: redo(node) for node in values.nodes}
        return Selection(values, kept_bytes, n_bytes, redo_seconds, self._seconds)


def heavy_nodes(edges: Edges) -> set[str]:
    """The nodes that may be run again under a budget only."""
    return {call.node.name for call in edges.calls.values() if call.op.heavy}


def _by_moment(verdict: Verdict, graph: Graph, places: dict[str, int]) -> dict[Moment, int]:
    """The most that is live at each moment."""
    nodes = {node.name: node for node in graph.nodes}
    found: dict[Moment, int] = {}
    for at, peak in verdict.peaks.items():
        node = nodes[at.removesuffix(" backward")]
        origin = node.name if node.op == "placeholder" else origins_of(node)[-1].name
        moment = Moment(places[origin], at.endswith(" backward"))
        found[moment] = max(found.get(moment, 0), peak)
    return found
