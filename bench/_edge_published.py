"""The published memory of training ResNets, and its model: a homogeneous chain.

Kukreja et al., "Training on the Edge: the why and the how" (2019): M = W + batch * A(image), and on
a chain of as many equal layers as the network is deep, of which c activations are held,
M = W + c * batch * A / l.

rho, here and in every curve, is the time of a step over that of a step without recomputation, a
forward of a layer as long as its backward: (l + l + 1) of them, the loss's backward included. The
published dots of checkpoint_sequential count forwards only; here they are on the same scale.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from fxpass.schedule import advances

_FILE = Path(__file__).parent / "data" / "edge_training_tables.json"


@cache
def published() -> dict[str, Any]:
    """The tables, as they were published, and what was inferred from them."""
    return json.loads(_FILE.read_text())


def models() -> list[str]:
    """The networks of the tables."""
    return list(published()["models"])


def depth(name: str) -> int:
    """Of a ResNet: how many layers its chain has."""
    return int(name.removeprefix("resnet"))


def activation_mb(name: str, image: int) -> float:
    """A(image) in MB: as published, or in proportion to the image's area."""
    model = published()["linear_model"]
    known = model.get(f"A_{image}")
    if known is not None:
        return float(known[name])
    row = published()["MB_by_image_at_batch_1"].get(str(image))
    if row is not None:
        return float(row[name]) - weights_mb(name)
    return float(model["A_224"][name]) * (image / 224) ** 2


def weights_mb(name: str) -> float:
    """W in MB: parameters, gradients and the optimizer's state."""
    return float(published()["linear_model"]["W"][name])


def linear_mb(name: str, batch: int, image: int, held: int | None = None) -> float:
    """The model's memory in MB; `held`: activations of the chain, by default all."""
    share = 1.0 if held is None else held / depth(name)
    return weights_mb(name) + share * batch * activation_mb(name, image)


def revolve_rho(length: int, slots: int) -> float:
    """Of Revolve on a chain of so many layers; Opt[l, c] is l + 1 backwards and its forwards."""
    forwards = advances(length + 1, slots)
    return (forwards + length + 1) / (2 * length + 1)


def slots_needed(length: int, rho: float) -> int:
    """The fewest slots with which Revolve takes at most that."""
    return next(c for c in range(1, length + 1) if revolve_rho(length, c) <= rho + 1e-9)


def sequential_rho(length: int, segments: int) -> float:
    """Of checkpoint_sequential: all segments but the last run forward twice."""
    again = length // segments * (segments - 1)
    return 1 + again / (2 * length + 1)


def sequential_rho_as_published(length: int, segments: int) -> float:
    """By the other definition: forwards over forwards without recomputation."""
    return 1 + length // segments * (segments - 1) / length


def sequential_held(length: int, segments: int) -> int:
    """Activations that checkpoint_sequential holds at most."""
    return segments - 1 + length - length // segments * (segments - 1)


def smallest_rho(name: str, batch: int, image: int, limit_mb: float) -> float | None:
    """The least recomputation with which Revolve fits into the limit; None: with none."""
    for slots in range(depth(name), 0, -1):
        if linear_mb(name, batch, image, slots) <= limit_mb:
            return revolve_rho(depth(name), slots)
    return None


def largest(name: str, limit_mb: float, held: int | None = None) -> tuple[int, int]:
    """The largest batch at 224 x 224, and image at batch 1, that the model lets train.

    A(image) in proportion to the area, from that at 224.
    """
    share = 1.0 if held is None else held / depth(name)
    room = (limit_mb - weights_mb(name)) / share
    each = activation_mb(name, 224)
    return int(room / each), int(224 * (room / each) ** 0.5)
