"""Which two calls may be one op: a batch norm and its activation, a ReLU and its max pool."""

from __future__ import annotations

from fxpass.edges import Call, Edges

_FUSED = (
    *("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "mish"),
    *("leaky_relu", "elu", "celu", "selu", "threshold"),
)
"""The activations that are one op with the batch norm in front of them."""


def pool_fused_with(relu: Call, edges: Edges) -> Call | None:
    """The max pool that reads this ReLU alone, if the two can be one op.

    Both values in between must have one reader: with more, the gradient contributions of several
    nodes would be summed in another order than eager's. The one op writes nothing to the ReLU's
    input, so where eager does, nobody else may see that input; whether a hook still holds it turns
    out at run time. It reads that input where the pool stands: if others may lie in its storage (it
    is an input of the graph, or a buffer), nothing may be written in between.
    """
    value = relu.inputs[0] if relu.inputs else None
    if value is None or len(value.users) != 1 or len(relu.node.users) != 1:
        return None
    if relu.arguments["inplace"] and not edges.is_new(value):
        return None
    pool = edges.calls.get(next(iter(relu.node.users)))
    if pool is None or not pool.op.name.startswith("max_pool"):
        return None
    if not edges.facts.are_together(relu.node, pool.node):
        return None
    if not edges.is_new(value) and edges.may_write_between(relu.node, pool.node):
        return None
    return None if pool.arguments["return_indices"] or pool.hooked or relu.hooked else pool


def batch_norm_fused_with(activation: Call, edges: Edges) -> Call | None:
    """The batch norm that this activation alone reads, if the two can be one op."""
    value = activation.inputs[0] if activation.inputs else None
    call = None if value is None else edges.calls.get(value)
    if activation.op.name not in _FUSED or call is None:
        return None
    if not call.op.name.startswith("batch_norm") or call.arguments["eps"] <= 0:
        return None
    if len(call.node.users) != 1 or call.hooked or activation.hooked:
        return None
    if not edges.facts.are_together(call.node, activation.node):
        return None
    is_relu = activation.op.name == "relu"
    return None if is_relu and pool_fused_with(activation, edges) is not None else call
