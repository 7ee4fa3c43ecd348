"""A training step on paper: what is live when, and how long it takes.

The rewritten graph of a plan is gone through as the program runs it, and then the autograd nodes it
leaves in the order of the engine, with the costs that were measured of each op.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.fx import Graph

from fxpass.budget.backward import Backward
from fxpass.budget.forward import Forward
from fxpass.budget.survey import Survey

_LOSS_BYTES = 64
"""The loss, its gradient and the like: some numbers."""


@dataclass
class Verdict:
    """What a step takes, as told beforehand.

    Attributes:
        peak_bytes: the most that is live in forward and backward, above the start.
        saved_bytes: what is live after the forward.
        seconds: of forward and backward.
        peak_at: the op in whose forward or backward the peak is.
        peaks: the most that is live in each op's forward or backward.

    """

    peak_bytes: int
    saved_bytes: int
    seconds: float
    peak_at: str
    peaks: dict[str, int]


def judge(module: nn.Module, graph: Graph, survey: Survey) -> Verdict:
    """The step of the program of `graph`, a rewritten graph of `module`, by what was measured."""
    forward = Forward(module, graph, survey)
    roots = forward.run()
    memory = forward.memory
    saved = memory.live
    memory.add(_LOSS_BYTES)
    Backward(memory).run(roots)
    return Verdict(memory.peak, saved, memory.seconds, memory.peak_at, memory.peaks)
