"""Saved-tensor edges: which op saves which value of a graph for backward."""

from fxpass.edges.activation_rows import ACTIVATIONS
from fxpass.edges.calls import Call, as_call, computes_as
from fxpass.edges.facts import Facts
from fxpass.edges.find import Edges, find_edges
from fxpass.edges.origin import Origin, describe, origins_of, rewritten_from, set_origins
from fxpass.edges.sizes import relative_sizes

__all__ = [
    "ACTIVATIONS",
    "Call",
    "Edges",
    "Facts",
    "Origin",
    "as_call",
    "computes_as",
    "describe",
    "find_edges",
    "origins_of",
    "relative_sizes",
    "rewritten_from",
    "set_origins",
]
