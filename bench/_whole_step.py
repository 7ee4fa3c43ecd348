"""One side of bench/resnet152.py: a process that trains, and after each step says what it took.

It reads a line for each step and answers with one of JSON. The first answer, before any step, says
how large the plan's peak is.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim

import fxpass
from bench import _models
from fxpass import memory
from fxpass.optim import in_backward


def main(side: str, name: str, batch: int, image: int, limit: int) -> None:
    """Trains until no line comes any more; `side`: "eager" or "fxpass"; `limit`: bytes."""
    torch.set_num_threads(2)
    with memory.track() as everything:
        model = _models.make(name)
        images, labels = _models.batch(batch, image)
        optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        called: nn.Module = model
        predicted = 0
        if side == "fxpass":
            in_backward(optimizer)
            momentum = sum(p.nbytes for p in model.parameters())
            budget = limit - everything.live_bytes - momentum
            plan = fxpass.plan(model, (images,), budget)
            called = fxpass.compile(model, (images,), plan=plan)
            predicted = limit - budget + (plan.predicted_peak_bytes or 0)
        _say(predicted=predicted)
        for _ in sys.stdin:
            start = time.perf_counter()
            at_start = everything.live_bytes
            with memory.track() as step:
                loss = _step(called, optimizer, images, partial(_models.cross_entropy, labels))
            seconds = time.perf_counter() - start
            _say(
                seconds=seconds,
                peak_bytes=at_start + step.peak_bytes,
                bits=_bits(model, optimizer, loss),
            )


def _step(model: nn.Module, optimizer: optim.Optimizer, images: Tensor, loss_fn: Any) -> Tensor:
    optimizer.zero_grad()
    loss: Tensor = loss_fn(model(images))
    loss.backward()
    optimizer.step()
    return loss.detach()


def _bits(model: nn.Module, optimizer: optim.Optimizer, loss: Tensor) -> dict[str, str]:
    """A digest of the loss, of each weight and buffer, and of each parameter's momentum."""
    found = {"loss": loss, **model.state_dict()}
    for name, parameter in model.named_parameters():
        found[f"momentum of {name}"] = optimizer.state[parameter]["momentum_buffer"]
    return {name: hashlib.sha256(_raw(tensor)).hexdigest() for name, tensor in found.items()}


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
