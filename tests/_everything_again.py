"""A model compiled so that as little is kept as can be: layers, too, are run again."""

import torch
from torch import nn

from fxpass._lowering import Lowering
from fxpass.budget.search import heavy_nodes
from fxpass.edges import find_edges
from fxpass.plan import Kept, Values, recipes
from fxpass.plan.free import cheapest
from fxpass.rewrite import rewrite
from fxpass.runtime.module import compiled_module
from fxpass.runtime.report import LossReport
from fxpass.runtime.unit import Unit


class EverythingAgain(Lowering):
    """Every value that is restored is let go after each reader if its name's length is a multiple
    of `let_go_every` (0: none is)."""

    def __init__(self, model, let_go_every=0):
        super().__init__(model)
        self._every = let_go_every

    def __call__(self, capture):
        opaque = frozenset({*capture.boundaries, *capture.overridden})
        edges = find_edges(capture.graph, capture.root, opaque, capture.hooked)
        values = Values(edges, heavy_nodes(edges))
        kept = cheapest(values)
        let_go = set()
        if self._every:
            let_go = {n for n in values.sources if len(n.name) % self._every == 0}
        serves = dict.fromkeys(let_go - kept.values, (1,) * 16)
        plan = recipes(values, Kept(kept.values, kept.masked, serves))
        rewrite(edges, plan)
        return plan


def everything_again(model: nn.Module, let_go_every: int = 0):
    """The compiled model."""
    unit = Unit(model, EverythingAgain(model, let_go_every), LossReport(model, strict=False))
    return compiled_module(model, unit)


def graph_of(compiled):
    """Its latest rewritten graph."""
    return next(iter(compiled._fxpass_unit.plans()))[2]


def operators(compiled) -> list[str]:
    """The names of the fxpass operators in it."""
    functions = (n.target for n in graph_of(compiled).nodes if n.op == "call_function")
    return [f.__name__ for f in functions if isinstance(f, torch._ops.OpOverloadPacket)]
