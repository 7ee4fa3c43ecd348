"""The free plan: the cheapest exact recipe of each value, nothing heavier than a copy re-run."""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call, Edges
from fxpass.plan.plan import Choice, Plan, Recipe

_READS_VALUES = ("conv", "linear", "pad")
"""Ops that need the elements of the input they save; the pools need its shape or a code."""


def free_plan(edges: Edges) -> Plan:
    """A recipe for every value that some op of the table saves."""
    choices = []
    sparse: set[Node] = set()
    for node in edges.graph.nodes:
        savers = edges.savers(node)
        call = edges.calls.get(node)
        if call is not None and _is_sparse(call, sparse):
            sparse.add(node)
        if not savers or (call is not None and call.op.shares_storage):
            continue  # nobody saves it, or it is a view: the value it lies in has the recipe
        recipe, reason = _choose(node, call, savers, edges, node in sparse)
        names = tuple(describe(saver.node) for saver in savers)
        choices.append(Choice(node.name, describe(node), names, recipe, reason))
    return Plan(tuple(choices))


def describe(node: Node) -> str:
    """A node in words: the op, and where a module makes the call its path."""
    if node.op == "call_module":
        return f"module {node.target}"
    if node.op == "placeholder":
        return f"input {node.name}"
    return str(getattr(node.target, "__name__", node.target))


def _choose(
    node: Node, call: Call | None, savers: list[Call], edges: Edges, is_sparse: bool
) -> tuple[Recipe, str]:
    strangers = edges.strangers(node)
    if strangers:
        return Recipe.DENSE, _stranger(strangers[0])
    reads_values = any(s.op.name.startswith(_READS_VALUES) for s in savers)
    if call is not None and call.op.name == "relu":
        if pool_fused_with(call, edges) is not None:
            return Recipe.CODE, "only the max pool reads it, and remembers where its maxima stood"
        if not reads_values:
            return Recipe.MASK, "backward reads only where it is positive"
    if not reads_values:
        return Recipe.NOTHING, "backward reads no element of it"
    if is_sparse:
        return Recipe.BITMAP, "it has the zeros of a ReLU, and backward reads the rest"
    return Recipe.DENSE, "no cheaper exact recipe for this op"


def _stranger(node: Node) -> str:
    if node.op == "output":
        return "the model returns it"
    return f"{describe(node)} may save it or write to it"


def _is_sparse(call: Call, sparse: set[Node]) -> bool:
    """Whether the result's zeros come from a ReLU, through ops that keep zeros."""
    if call.op.name == "relu":
        return True
    return call.op.keeps_zeros and bool(call.inputs) and sparse.issuperset(call.inputs)


def pool_fused_with(relu: Call, edges: Edges) -> Call | None:
    """The max pool that reads this ReLU alone, if the two can be one op.

    Both values in between must have one reader: with more, the gradient contributions of several
    nodes would be summed in another order than eager's. The one op writes nothing to the ReLU's
    input, so where eager does, nobody else may see that input.
    """
    value = relu.inputs[0] if relu.inputs else None
    if value is None or len(value.users) != 1 or len(relu.node.users) != 1:
        return None
    if relu.arguments["inplace"] and not edges.is_new(value):
        return None
    pool = edges.calls.get(next(iter(relu.node.users)))
    if pool is None or not pool.op.name.startswith("max_pool"):
        return None
    return None if pool.arguments["return_indices"] or pool.hooked or relu.hooked else pool
