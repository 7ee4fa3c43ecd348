"""Memory against time: a training step at several batch and image sizes, by several methods.

The methods are eager; checkpoint, `torch.utils.checkpoint.checkpoint_sequential` on every outermost
nn.Sequential with the square root of its length as the number of segments; torch.compile with its
default backend; and fxpass. Checkpointing updates batch norm statistics twice, and torch.compile
rounds differently: only fxpass computes what eager does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from fxpass._oracle import LossFn, sum_of_outputs
from fxpass._preserved import preserved
from fxpass._progress import progress
from fxpass.compile import compile
from fxpass.inspect.run import measure, seconds_of


@dataclass(frozen=True)
class Point:
    """One measured step: bytes above its start, and seconds of forward and backward."""

    method: str
    batch: int
    image: tuple[int, int, int]
    saved_bytes: int
    peak_bytes: int
    seconds: float


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


def with_checkpoints(model: nn.Module, segments: int | None = None) -> nn.Module:
    """A copy of the model that runs every outermost nn.Sequential by checkpoint_sequential.

    `segments`: of each, no more than it has layers; None: the square root of its length.

    Raises ValueError if the model has no nn.Sequential.
    """
    model = copy.deepcopy(model)
    chains = list(_outermost_chains(model))
    if not chains:
        raise ValueError(
            "checkpoint_sequential needs a chain: expected a model with an nn.Sequential in it, "
            f"got {type(model).__name__} without one; leave out the method 'checkpoint'"
        )
    for chain in chains:
        number = math.isqrt(len(chain) - 1) + 1 if segments is None else segments
        chain.forward = _checkpointed(list(chain), number)  # type: ignore[method-assign]
    return model


def _outermost_chains(module: nn.Module) -> Iterator[nn.Sequential]:
    if isinstance(module, nn.Sequential) and len(module) > 1:
        yield module
        return
    for child in module.children():
        yield from _outermost_chains(child)


def _checkpointed(layers: list[nn.Module], segments: int) -> Callable[[Tensor], Tensor]:
    segments = min(segments, len(layers))

    def forward(x: Tensor) -> Tensor:
        return checkpoint_sequential(layers, segments, x, use_reentrant=False)

    return forward


METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "eager": _as_it_is,
    "checkpoint": with_checkpoints,
    "torch.compile": torch.compile,
    "fxpass": compile,
}
DEFAULT_METHODS = ("eager", "checkpoint", "fxpass")


def sweep(
    model: nn.Module,
    batches: Sequence[int],
    sizes: Sequence[tuple[int, int, int]],
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    loss_fn: LossFn = sum_of_outputs,
) -> list[Point]:
    """Measures a step of `model` for each method, batch size and image size.

    Parameters, buffers and RNG are left as they were found.

    Args:
        model: the model.
        batches: numbers of images.
        sizes: of images: (channels, height, width).
        methods: names from `METHODS`.
        loss_fn: from the model's output to a scalar.

    Raises:
        ValueError: an unknown method, or `checkpoint` of a model without a chain.

    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ValueError(f"expected methods among {', '.join(METHODS)}, got {unknown[0]!r}")
    like = next(model.parameters(), torch.empty(0))
    points = []
    with progress(len(methods) * len(batches) * len(sizes)) as begin:
        for method in methods:
            made = METHODS[method](model)
            for size in sizes:
                for batch in batches:
                    begin(f"{method}: {batch}x{'x'.join(map(str, size))}")
                    random = torch.Generator().manual_seed(0)
                    images = torch.randn(batch, *size, dtype=like.dtype, generator=random)
                    step = _measured(made, (images,), loss_fn)
                    points.append(Point(method, batch, size, *step))
    return points


def _measured(model: nn.Module, inputs: tuple[Tensor], loss_fn: LossFn) -> tuple[int, int, float]:
    with preserved(model, inputs), torch.enable_grad():
        measure(model, inputs, loss_fn)  # traces, and compiles
        run = measure(model, inputs, loss_fn)
        return run.saved_bytes, run.peak_bytes, seconds_of(model, inputs, loss_fn)
