"""What a training step of a ResNet takes, told from shapes: no tensor is made.

Counted is the whole step of SGD with momentum, in single precision: parameters, buffers, momentum
(as large as the parameters), the images and labels, and the most that is live of activations,
gradients and what backward needs meanwhile. `.grad` is None when the step begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import _models
from bench._edge_chain import BlockChain, block_chain
from fxpass.budget.shapes import ShapePlanner
from fxpass.plan import Plan
from fxpass.schedule import Schedule, revolve, uniform

MIB = 2**20
_LABEL_BYTES = 8

Scheduler = Callable[[Any, int], Schedule]


@dataclass(frozen=True)
class Step:
    """A whole step: its most bytes, and its time over that of one without recomputation."""

    peak_bytes: int
    rho: float
    how: str = ""


@lru_cache(maxsize=8)
def fake_model(name: str) -> tuple[FakeTensorMode, nn.Module]:
    """A model of shapes, and the mode in which its tensors live."""
    mode = FakeTensorMode()
    with mode:
        return mode, _models.make(name)


class Cell:
    """A model, a batch and an image size."""

    def __init__(self, name: str, batch: int, image: int) -> None:
        self.name, self.batch, self.image = name, batch, image
        mode, self._model = fake_model(name)
        with mode:
            self._images: Tensor = torch.empty(batch, 3, image, image)

    @property
    def fixed_bytes(self) -> int:
        """Parameters, momentum, buffers, images, labels."""
        buffers = sum(b.nbytes for b in self._model.buffers())
        inputs = self._images.nbytes + _LABEL_BYTES * self.batch
        return 2 * self.gradient_bytes + buffers + inputs

    @property
    def gradient_bytes(self) -> int:
        """Of all parameters."""
        return sum(p.nbytes for p in self._model.parameters())

    @cached_property
    def planner(self) -> ShapePlanner:
        """Of fxpass, with all gradients kept until the optimizer's step."""
        return ShapePlanner(self._model, (self._images,))

    @cached_property
    def planner_in_backward(self) -> ShapePlanner:
        """Of fxpass, with each gradient freed in backward by fxpass.optim.in_backward."""
        return ShapePlanner(self._model, (self._images,), frees_gradients=True)

    @cached_property
    def chain(self) -> BlockChain:
        """The chain of blocks."""
        return block_chain(self._model, self._images)

    @cached_property
    def eager(self) -> Step:
        """PyTorch's own step."""
        return Step(self._whole(self.planner.eager.peak_bytes), 1.0)

    @cached_property
    def free(self) -> Step:
        """The plan of fxpass without a budget."""
        return self._planned(self.planner, self.planner.free.verdict)

    def sequential(self, limit: int | None = None) -> Step:
        """checkpoint_sequential on the chain of blocks, with its best number of segments."""
        return self._scheduled(uniform, "segments", len(self.chain.chain), limit)

    def revolve(self, limit: int | None = None) -> Step:
        """Revolve on the chain of blocks, with its best number of slots."""
        return self._scheduled(revolve, "slots", len(self.chain.chain), limit)

    def smallest(self, plan: Plan | None = None, in_backward: bool = False) -> Step:
        """The smallest peak that fxpass finds, or what a given plan takes here."""
        planner = self.planner_in_backward if in_backward else self.planner
        found = planner.smallest if plan is None else planner.following(plan)
        return self._planned(planner, found.verdict)

    def _planned(self, planner: ShapePlanner, verdict: Any) -> Step:
        freed = planner is not self.planner
        return Step(self._whole(verdict.peak_bytes, freed), verdict.seconds / planner.eager.seconds)

    def _whole(self, peak_bytes: int, freed: bool = False) -> int:
        """With what is there all the time; the optimizer's step has all gradients at least."""
        return self.fixed_bytes + max(peak_bytes, 0 if freed else self.gradient_bytes)

    def scheduled(self, scheduler: Scheduler, number: int, how: str) -> Step:
        """A schedule on the chain of blocks, with so many segments or slots."""
        schedule = scheduler(self.chain.chain, number)
        peak = self.chain.peak_bytes(schedule) - self._images.nbytes
        return Step(self._whole(peak), self.chain.rho(schedule), how)

    def _scheduled(self, scheduler: Scheduler, what: str, most: int, limit: int | None) -> Step:
        """The fastest within the limit, or else the smallest; `limit` None: the smallest."""
        steps = [self.scheduled(scheduler, n, f"{n} {what}") for n in range(1, most + 1)]
        fitting = [s for s in steps if limit is not None and s.peak_bytes <= limit]
        if fitting:
            return min(fitting, key=lambda step: step.rho)
        return min(steps, key=lambda step: (step.peak_bytes, step.rho))


Method = Callable[[Cell], Step]

METHODS: dict[str, Method] = {
    "eager": lambda cell: cell.eager,
    "checkpoint_sequential": lambda cell: cell.sequential(),
    "Revolve": lambda cell: cell.revolve(),
    "fxpass": lambda cell: cell.free,
}
"""By the names in the tables; of the schedules, with the least memory."""


def largest(peak: Callable[[int], int], limit: int, start: int, power: int = 1) -> int:
    """The largest size whose peak is within the limit, to a hundredth; 0 if `start` is too large.

    `power`: that of the size with which the peak grows.
    """
    low, high, below = start, 2 * start, peak(start)
    if below > limit:
        return 0
    while (above := peak(high)) <= limit:
        low, high, below = high, 2 * high, above
    while high - low > max(1, low // 100):
        share = (limit - below) / (above - below)
        guess = int((low**power + share * (high**power - low**power)) ** (1 / power))
        middle = min(max(guess, low + 1), high - 1)
        size = peak(middle)
        if size <= limit:
            low, below = middle, size
        else:
            high, above = middle, size
    return low


def largest_sizes(name: str, method: Method, limit: int) -> tuple[int, int]:
    """The largest batch at 224 x 224, and the largest image at batch 1."""
    return (
        largest(lambda batch: method(cell_of(name, batch, 224)).peak_bytes, limit, 1),
        largest(lambda image: method(cell_of(name, 1, image)).peak_bytes, limit, 224, power=2),
    )


@lru_cache(maxsize=256)
def cell_of(name: str, batch: int, image: int) -> Cell:
    """A cell, whose predictions are made once."""
    return Cell(name, batch, image)
