"""Saved-tensor edges: which op saves which value of a graph for backward."""

from fxpass.edges.activation_rows import ACTIVATIONS
from fxpass.edges.calls import Call, as_call, computes_as
from fxpass.edges.find import Edges, find_edges
from fxpass.edges.sizes import relative_sizes

__all__ = ["ACTIVATIONS", "Call", "Edges", "as_call", "computes_as", "find_edges", "relative_sizes"]
