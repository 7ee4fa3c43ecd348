"""Saved-tensor edges: which op saves which value of a graph for backward."""

from fxpass.edges.activation_rows import ACTIVATIONS
from fxpass.edges.calls import Call, as_call, computes_as
from fxpass.edges.find import Edges, find_edges
from fxpass.edges.origin import Origin, describe, is_rewritten, origins_of, set_origins
from fxpass.edges.sizes import relative_sizes

__all__ = [
    "ACTIVATIONS",
    "Call",
    "Edges",
    "Origin",
    "as_call",
    "computes_as",
    "describe",
    "find_edges",
    "is_rewritten",
    "origins_of",
    "relative_sizes",
    "set_origins",
]
