"""A module compiled and the same module not, through the oracle's training loop: equal, every bit.

`assert_exact(model, x)` fails unless outputs, gradients, buffers, parameters and random state are
those of eager. A model that does not equal itself proves nothing (see _bits.proves_nothing).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from _bits import proves_nothing
from _threads import torch_threads
from _twins import saved_bytes
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxpass
from fxpass._oracle import Loop, Recording, compare, record, sum_of_outputs

LossFn = Callable[[Any], Tensor]


def weighted(output: Any) -> Tensor:
    """A loss that gives every element a gradient of its own, dense in memory."""
    leaves = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
    weights = [torch.linspace(-1.5, 1, t.numel(), dtype=torch.float64) for t in leaves]
    pairs = zip(leaves, weights, strict=True)
    terms = [(t * w.to(t.dtype).view(t.shape)).sum() for t, w in pairs if t.is_floating_point()]
    return sum(terms[1:], terms[0])


# `sum` gives gradients that are expanded, `means` some that are so within each channel.
LOSSES: dict[str, LossFn] = {
    "weighted": weighted,
    "sum": sum_of_outputs,
    "means": lambda output: sum(
        weighted(t.flatten(2).mean(2) if t.dim() > 2 else t)
        for t in pytree.tree_leaves(output)
        if isinstance(t, Tensor)
    ),
}


def recordings(
    model: nn.Module, compiled: Any, inputs: tuple[Any, ...], loop: Loop
) -> tuple[Recording, Recording]:
    """What eager did and what ours did, in a setting in which eager equals itself."""
    eager = record(model, inputs, loop)
    found = record(compiled, inputs, loop)
    if compare(eager, found) and compare(eager, record(model, inputs, loop)):
        proves_nothing()
    return eager, found


def assert_exact(
    model: nn.Module,
    *inputs: Any,
    steps: int = 3,
    loss_fn: LossFn = weighted,
    on_threads: int = 1,
    may_raise: bool = False,
    seed: int = 1,
    note: object = "",
    compiled: Any = None,
) -> Any:
    """Fails unless the compiled model is eager's equal; returns it. `compiled`: if it is made."""
    compiled = fxpass.compile(model) if compiled is None else compiled
    loop = Loop(steps, loss_fn)
    with torch_threads(on_threads):
        torch.manual_seed(seed)
        eager, found = recordings(model, compiled, inputs, loop)
    if eager.error is not None and not may_raise:
        raise AssertionError(f"eager raises {eager.error!r}") from eager.error
    wrong = compare(eager, found)
    assert not wrong, "\n".join([f"{note}\n{model}", *map(str, wrong)])
    return compiled


def assert_saves_no_more(model: nn.Module, compiled: Any, *inputs: Any, slack: int = 0) -> float:
    """Fails if the compiled model keeps more than eager; returns the share that it keeps."""
    eager, ours = saved_bytes(model, *inputs), saved_bytes(compiled, *inputs)
    assert ours <= eager + slack, f"{ours} bytes, eager keeps {eager}\n{compiled.explain()}"
    return ours / max(eager, 1)


def kept(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Saved bytes of (eager, compiled) over those of the input, which needs a gradient."""
    x = x.detach().clone().requires_grad_()
    eager, ours = (saved_bytes(m, x) / x.nbytes for m in (model, fxpass.compile(model)))
    return eager, ours


def assert_nothing_left(compiled: Any, *inputs: Any, use: Callable[[Any], None]) -> None:
    """Runs `use(compiled)` and fails if a byte of it is alive afterwards, without the collector."""
    use(compiled)  # traces, if it has to, and makes what torch makes once
    gc.disable()
    try:
        with fxpass.memory.track() as memory:
            use(compiled)
            left = memory.live_bytes
    finally:
        gc.enable()
    assert left == 0, f"{left} bytes are left"
