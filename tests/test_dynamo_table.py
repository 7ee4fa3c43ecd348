"""Dynamo's spelling of every row of the table is known, so that the passes do there what they do.

Modules come as functions, functions as those of torch._C, and batch norms count their batches by an
op of their own.
"""

import pytest
import torch
from _dynamo import OF_DYNAMO
from _spellings import calls_of

from fxpass.dynamo.facts import facts_of
from fxpass.edges import find_edges
from fxpass.edges.table import TABLE

pytestmark = [pytest.mark.usefixtures("fresh_dynamo", "one_thread"), *OF_DYNAMO]

# What Dynamo makes of a row, where that has another name; None: nothing is left to do.
AS = {
    **{f"batch_norm{n}d": "batch_norm" for n in (1, 2, 3)},
    **{f"{kind}_pad": "pad" for kind in ("constant", "zero", "reflection", "replication")},
    "circular_pad": "pad",
    "softmax2d": "softmax",
    "shape": None,
    "stochastic_depth": "mul",
}
# In place, torch.threshold_ has no row.
UNKNOWN = ("threshold_",)
# Called as a function of Tensor's, and not as a method, it breaks the graph.
BROKEN = ("Tensor.unflatten",)


def ops_of(call):
    """The ops of the table that Dynamo's graph of a call has, and the functions it does not."""
    known, unknown = [], []

    def look(captured, inputs):
        edges = find_edges(captured.graph, captured, facts=facts_of(captured.graph))
        for node in captured.graph.nodes:
            if node in edges.calls:
                known.append(edges.calls[node].op.name)
            elif node.op.startswith("call"):
                unknown.append(getattr(node.target, "__name__", node.target))
        return captured.forward

    x = call.input()
    x = x * 1 if x.is_floating_point() else x
    torch.compile(call.run, backend=look, fullgraph=True)(x)
    return known, unknown


@pytest.mark.parametrize("op", TABLE, ids=lambda op: op.name)
def test_every_spelling_is_known(op):
    for spelling, calls in calls_of(op).items():
        if spelling in BROKEN:
            continue
        for call in {id(c): c for c in (calls[0], calls[-1])}.values():
            torch.compiler.reset()
            known, unknown = ops_of(call)
            expected = None if spelling == "nn.Identity" else AS.get(op.name, op.name)
            is_known = expected is None or expected in known
            assert is_known or unknown[0] in UNKNOWN, (call, known, unknown)
