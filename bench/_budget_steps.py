"""One training step for the benchmarks of memory budgets: its bytes, its time beside another's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench import _models
from bench._timing import paired_ratio
from fxpass import memory

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Scene:
    """A model and the step that it is trained with.

    Attributes:
        pairs: how many pairs of runs a ratio of times is the median of; None: the house's rule.

    """

    name: str
    model: nn.Module
    images: Tensor
    loss: Callable[[Any], Tensor]
    pairs: int | None

    def step(self, model: nn.Module) -> Callable[[], None]:
        """One forward and backward of `model`, from gradients that are None."""
        return partial(_step, model, self.images, self.loss)

    def bytes_of(self, model: nn.Module) -> tuple[int, int]:
        """(peak, saved) bytes of a step; what is made once has been made before."""
        _step(model, self.images, self.loss)
        _forget(model)
        with memory.track() as tracked:
            value = self.loss(model(self.images))
            saved = tracked.live_bytes
            value.backward()
        return tracked.peak_bytes, saved

    def time_ratio(self, model: nn.Module, reference: nn.Module) -> float:
        """Seconds of a step of `model` over those of `reference`."""
        ratio = paired_ratio(self.step(model), self.step(reference), pairs=self.pairs, warm_up=1)
        return ratio.value


def scene(name: str, batch: int, image: int, form: str, pairs: int | None) -> Scene:
    """One of `_models` with random images; `form`: a key of FORMATS."""
    model = _models.in_format(_models.make(name), FORMATS[form])
    images, labels = _models.batch(batch, image)
    images = images.contiguous(memory_format=FORMATS[form])
    return Scene(name, model, images, partial(_models.cross_entropy, labels), pairs)


def _step(model: nn.Module, images: Tensor, loss: Callable[[Any], Tensor]) -> None:
    _forget(model)
    loss(model(images)).backward()


def _forget(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None
