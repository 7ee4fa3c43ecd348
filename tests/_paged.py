"""A model whose saved values go to files, and what to ask of the directory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import fx, nn

from fxpass import paging
from fxpass.edges import Edges, find_edges
from fxpass.plan import Plan, free_plan
from fxpass.plan.plan import Recipe
from fxpass.rewrite import rewrite


def paging_plan(edges: Edges) -> Plan:
    """The free plan, but all that this keeps dense is paged."""
    choices = (
        replace(c, recipe=Recipe.PAGE) if c.recipe is Recipe.DENSE else c for c in free_plan(edges)
    )
    return Plan(tuple(choices))


def paged(model: nn.Module, directory: Path | None) -> fx.GraphModule:
    """`model` by that plan."""
    graph = fx.Tracer().trace(model)
    edges = find_edges(graph, model)
    rewrite(edges, paging_plan(edges), page_dir=directory and str(directory))
    return fx.GraphModule(model, graph)


def drained(directory: Path) -> paging.Counters:
    """The counters, once all that waits for the disk is written."""
    deadline = time.monotonic() + 60
    while (now := paging.counters(directory)).buffer_bytes_now:
        assert time.monotonic() < deadline, f"still in memory: {now}"
        time.sleep(0.001)
    return now


@contextmanager
def file_of(directory: Path) -> Iterator[int]:
    """The file of this process' pages, which has no name: a descriptor to do damage with."""
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink() and os.readlink(link).startswith(f"{directory.resolve()}/"):
            descriptor = os.open(link, os.O_RDWR)
            break
    else:
        raise AssertionError(f"this process has no file in {directory}")
    try:
        yield descriptor
    finally:
        os.close(descriptor)
