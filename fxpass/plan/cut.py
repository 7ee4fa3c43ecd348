"""The cheapest set of values to keep, from which all values that backward needs can be made.

Values and the ops that make them form a graph. A value is there in backward if it is kept, or if
its op may be run again and all its inputs are there. The cheapest set is a minimum vertex cut
between what cannot be made again and what is needed. Source: the same reduction as the partitioner
of torch's functorch (min_cut_rematerialization_partition), on this project's own graph.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

import networkx as nx

Value = TypeVar("Value", bound=Hashable)
_SOURCE, _SINK = ("source",), ("sink",)


def cheapest_to_keep(
    inputs_of: Mapping[Value, Iterable[Value]],
    cost: Mapping[Value, float],
    needed: Iterable[Value],
) -> set[Value]:
    """The values to keep.

    Args:
        inputs_of: for each value that may be made again, the values it is made of. Those that are
            in no such list but are needed or an input of one cannot be made.
        cost: of keeping a value; one without an entry cannot be kept.
        needed: the values that backward reads.

    """
    graph = nx.DiGraph()
    todo, seen = list(needed), set()
    for value in todo:
        graph.add_edge((value, "out"), _SINK)
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        entry, leave = (value, "in"), (value, "out")
        if value in cost:
            graph.add_edge(entry, leave, capacity=cost[value])
        else:
            graph.add_edge(entry, leave)  # no capacity: infinite
        inputs = inputs_of.get(value)
        if inputs is None:
            graph.add_edge(_SOURCE, entry)
            continue
        for item in inputs:
            graph.add_edge((item, "out"), entry)
            todo.append(item)
    if _SOURCE not in graph or _SINK not in graph:
        return set()
    _, (reachable, _) = nx.minimum_cut(graph, _SOURCE, _SINK)
    return {v for v in seen if (v, "in") in reachable and (v, "out") not in reachable}
