"""Edges, plan, rewrite: what `compile` does to each captured graph of a model."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from fxpass.capture import Capture
from fxpass.edges import find_edges
from fxpass.plan import Plan, free_plan, key, plan_as_given, plan_followed
from fxpass.rewrite import rewrite


class Lowering:
    """Turns captured graphs of `model` and its parts into graphs of fxpass operators, in place."""

    def __init__(
        self,
        model: nn.Module,
        given: Plan | None = None,
        *,
        is_new: bool = False,
        only: Collection[str] | None = None,
    ) -> None:
        """Of `given`, a plan of the model, what is dense stays dense.

        Args:
            model: the model.
            given: the user's plan, if any.
            is_new: whether the first graph of each part must have the values that `given` names.
                Later ones, of other modes or other forms of call, need not.
            only: the ops to rewrite, named as a plan names their values; None: all.

        """
        self._model = model
        self._given = given
        self._only = only
        self._unchecked = given.parts() if given is not None and is_new else set()

    def __call__(self, capture: Capture) -> Plan:
        """The plan that was followed."""
        path = next((p for p, m in self._model.named_modules() if m is capture.root), None)
        opaque = frozenset({*capture.boundaries, *capture.overridden})
        edges = find_edges(capture.graph, capture.root, opaque, capture.hooked)
        if self._given is None or path is None:  # None: the model has the part no longer
            plan = free_plan(edges)
        else:
            given = self._given.part(path)
            if path in self._unchecked:
                _require_values(given, [node.name for node in capture.graph.nodes], path)
                self._unchecked.discard(path)
            followed = None if given.prediction is None else plan_followed(edges, given)
            edges, plan = plan_as_given(edges, given) if followed is None else (edges, followed)
        only = self._only
        if only is not None:
            names = [node.name for node in edges.graph.nodes]
            only = {name for name in names if key(path or "", name) in only}
        rewrite(edges, plan, only)
        return plan


def require_parts(plan: Plan, model: nn.Module) -> None:
    """Raises ValueError unless the model has the parts of which `plan` names values."""
    unknown = plan.parts() - {path for path, _ in model.named_modules()}
    if unknown:
        raise ValueError(
            f"fxpass.compile: expected a plan of this {type(model).__name__}, got one with values"
            f" of {', '.join(sorted(unknown))}: the model has no such part"
        )


def _require_values(plan: Plan, names: list[str], path: str) -> None:
    unknown = [choice.value for choice in plan if choice.value not in names]
    if unknown:
        raise ValueError(
            f"fxpass.compile: expected the plan to name values of {path or 'the model'}"
            f" ({', '.join(names)}), got {', '.join(unknown)}"
        )
