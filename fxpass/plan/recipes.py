"""Kept values -> Plan: how each value is kept, or restored from those kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch.fx import Node

from fxpass.edges import Call, describe
from fxpass.plan.fused import pool_fused_with
from fxpass.plan.plan import Choice, Plan, Recipe
from fxpass.plan.values import Values, is_view


@dataclass(frozen=True)
class Kept:
    """What a planner keeps.

    Attributes:
        values: the values that are kept, dense or as a bitmap.
        masked: those of which only a mask is kept.
        serves: of those that are restored more than once in a backward: for how many readers each
            restoration holds them, the first one first.

    """

    values: set[Node]
    masked: set[Node]
    serves: dict[Node, tuple[int, ...]] = field(default_factory=dict)


def recipes(values: Values, kept: Kept) -> Plan:
    """The plan in which `kept` is kept, and all else that backward needs is made of it."""
    return _Recipes(values, kept).plan()


class _Recipes:
    def __init__(self, values: Values, kept: Kept) -> None:
        self.values = values
        self.edges = values.edges
        self.kept, self.masked, self.serves = kept.values, kept.masked, kept.serves
        self.restored = self._restored()

    def plan(self) -> Plan:
        choices = []
        for node in self.values.nodes:
            savers = self.edges.savers(node)
            call = self.edges.calls.get(node)
            if is_view(call):
                continue  # the value it lies in has the recipe
            if self.edges.facts.is_weight(node) and not any(
                node in saver.inputs for saver in savers
            ):
                continue  # a weight, which is there anyway
            if node in self.values.fused:
                continue  # it is never there
            if savers or node in self.values.with_norm | self.restored | self.kept:
                recipe, reason = self._choose(node, call)
            elif call is not None and _keeps_its_own(call):
                recipe, reason = Recipe.NOTHING, "backward reads no element of it"
            else:
                continue
            names = tuple(describe(saver.node) for saver in savers)
            ops = self._ops(node, savers)
            choice = Choice(node.name, describe(node), names, recipe, reason, ops)
            choices.append(replace(choice, serves=self.serves.get(node, ())))
        return Plan(tuple(choices))

    def _ops(self, node: Node, savers: list[Call]) -> tuple[str, ...]:
        """The nodes that compute and save a value; the norm in front too, if they are one op."""
        norm = self.edges.calls[node].inputs if node in self.values.with_norm else []
        nodes = [*norm, node, *(saver.node for saver in savers)]
        return tuple(dict.fromkeys(n.name for n in nodes))

    def _choose(self, node: Node, call: Call | None) -> tuple[Recipe, str]:
        if node in self.values.with_norm:
            return Recipe.AFFINE, "one op with the batch norm, which keeps its own input"
        if node in self.restored and call is not None:
            if call.op.name.startswith("batch_norm"):
                return Recipe.AFFINE, "the batch norm keeps its own input"
            return Recipe.RERUN, f"{call.op.name} again on what is kept anyway"
        if self.values.strangers[node]:
            return Recipe.DENSE, _stranger(self.values.strangers[node][0])
        reads_values = node in self.kept
        if call is not None and call.op.name == "relu":
            if pool_fused_with(call, self.edges) is not None:
                return Recipe.CODE, "only the max pool reads it, and remembers where its maxima are"
            if not reads_values:
                return Recipe.MASK, "backward reads only where it is positive"
        if node in self.masked:
            return Recipe.MASK, "backward reads only between which bounds it lies"
        if not reads_values:
            return Recipe.NOTHING, "backward reads no element of it"
        if node in self.values.sparse:
            return Recipe.BITMAP, "it has the zeros of a ReLU, and backward reads the rest"
        if not self.edges.savers(node):
            return Recipe.DENSE, "what is made of it takes more"
        return Recipe.DENSE, "no cheaper exact recipe for this op"

    def _restored(self) -> set[Node]:
        """Every value that is made again, or on the way to one."""
        unmasked = set(self.values.masks.values()) - self.masked
        todo, found = [n for n in self.values.needed | unmasked if n not in self.kept], set()
        while todo:
            node = todo.pop()
            if node in found or node in self.kept:
                continue
            found.add(node)
            todo += self.values.sources.get(node, ())
        return found


def _keeps_its_own(call: Call) -> bool:
    """Whether the op keeps something for itself alone: neither its input nor its result."""
    return call.op.name.endswith(("dropout", "pad"))


def _stranger(node: Node) -> str:
    if node.op == "output":
        return "the model returns it"
    return f"{describe(node)} may save it or write to it"
