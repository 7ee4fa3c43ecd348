"""A whole training step of a ResNet as torch's allocator has it."""

from __future__ import annotations

import time
from functools import partial

import torch

from bench import _models
from fxpass import memory


def measured_peak(name: str, batch: int, image: int) -> tuple[int, float]:
    """The most bytes live from before the model was made until its third step, and a step's time.

    SGD with momentum, `.grad` None between steps. The loss is cross entropy.
    """
    with memory.track() as tracked:
        model = _models.make(name)
        images, labels = _models.batch(batch, image)
        loss = partial(_models.cross_entropy, labels)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        for _ in range(3):
            tracked.reset_peak()
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            loss(model(images)).backward()
            optimizer.step()
            seconds = time.perf_counter() - start
    return tracked.peak_bytes, seconds
