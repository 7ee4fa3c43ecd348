"""Other ways to train in less memory, and for each of their points the plan that beats it, or not.

torch.compile with `activation_memory_budget`, in channels_last, as its convolutions are; and
`torch.utils.checkpoint.checkpoint_sequential` on every outermost nn.Sequential, in NCHW. For each
point fxpass gets a budget a little below the peer's peak, in the peer's memory format, and takes
part in the same pairs of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch._functorch.config as functorch_config
from rich.table import Table
from torch import nn

import fxpass
from bench._budget_steps import Scene, scene
from bench._promise import Figure
from fxpass.budget import Planner
from fxpass.inspect.sweep import with_checkpoints

MODELS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "vgg16")
COMPILE_BUDGETS = (1.0, 0.5, 0.2)
SEGMENTS = (2, 4, 8)
MOST_LOST_PERCENT = 20.0
_BELOW = 0.98
"""Of the peer's peak: what fxpass gets."""

_MIB = 2.0**20


@dataclass(frozen=True)
class Duel:
    """A peer's point, and fxpass' beside it; bytes of the peak, and fxpass' seconds over its."""

    peer: str
    peer_bytes: int
    our_bytes: int | None
    time_ratio: float | None
    missing: str

    @property
    def is_won(self) -> bool:
        """Less peak and less time."""
        return not self.missing


def duels(name: str, batch: int, image: int, pairs: int | None) -> Iterator[Duel]:
    """All peers' points of one model."""
    for form, methods in (("channels_last", _compiled()), ("nchw", _checkpointed())):
        ground = scene(name, batch, image, form, pairs)
        planner = Planner(ground.model, (ground.images,))
        for peer, make in methods:
            with make(ground.model) as other:
                yield _duel(ground, planner, peer, other)


def _compiled() -> Iterator[tuple[str, Any]]:
    for budget in COMPILE_BUDGETS:
        yield f"torch.compile {budget}", partial(_torch_compile, budget)


def _checkpointed() -> Iterator[tuple[str, Any]]:
    for segments in SEGMENTS:
        yield f"checkpoint_sequential {segments}", partial(_checkpoints, segments)


@contextmanager
def _torch_compile(budget: float, model: nn.Module) -> Iterator[Callable[..., Any]]:
    torch.compiler.reset()
    with functorch_config.patch(activation_memory_budget=budget):
        yield torch.compile(model)
    torch.compiler.reset()


@contextmanager
def _checkpoints(segments: int, model: nn.Module) -> Iterator[nn.Module]:
    yield with_checkpoints(model, segments)


def _duel(ground: Scene, planner: Planner, peer: str, other: Any) -> Duel:
    peer_bytes, _ = ground.bytes_of(other)
    try:
        plan = planner.plan(int(_BELOW * peer_bytes))
    except fxpass.BudgetError as error:
        smallest = error.smallest_bytes / _MIB
        return Duel(peer, peer_bytes, None, None, f"no plan below {smallest:.0f} MiB found")
    compiled = fxpass.compile(ground.model, (ground.images,), plan=plan)
    our_bytes, _ = ground.bytes_of(compiled)
    ratio = ground.time_ratio(compiled, other)
    missing = [
        *([f"{our_bytes / peer_bytes - 1:.1%} of peak"] if our_bytes >= peer_bytes else []),
        *([f"{ratio - 1:.1%} of time"] if ratio >= 1 else []),
    ]
    return Duel(peer, peer_bytes, our_bytes, ratio, " and ".join(missing))


def figure_of(found: list[Duel]) -> Figure:
    """What is promised of all points together: as the share that is lost, which must be small."""
    lost = 100 * sum(not duel.is_won for duel in found) / len(found)
    return Figure("peers' points that fxpass does not beat", lost, MOST_LOST_PERCENT, "%")


def table(name: str, found: list[Duel]) -> Table:
    """A row for each of the peers' points."""
    rows = Table(title=f"{name}: peers")
    for column in ("peer", "peak MiB", "fxpass MiB", "fxpass' time / its", "missing"):
        rows.add_column(column, justify="left" if column in ("peer", "missing") else "right")
    for duel in found:
        ours = "" if duel.our_bytes is None else f"{duel.our_bytes / _MIB:.1f}"
        ratio = "" if duel.time_ratio is None else f"{duel.time_ratio:.3f}"
        rows.add_row(duel.peer, f"{duel.peer_bytes / _MIB:.1f}", ours, ratio, duel.missing)
    return rows
