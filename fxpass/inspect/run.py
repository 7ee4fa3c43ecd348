"""One training step of a model, measured by the allocator's counter."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxpass import _C, memory
from fxpass._oracle import LossFn
from fxpass.inspect.savers import Saver, savers_of
from fxpass.inspect.watcher import Watcher
from fxpass.memory import Event

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

_STEPS = 3
_ENOUGH_SECONDS = 2.0


@dataclass(frozen=True)
class Run:
    """One forward and backward from gradients that were None.

    Attributes:
        saved_bytes: live when the forward had returned, above the start.
        peak_bytes: the most live at one moment, above the start.
        events: of the allocator's counter.
        forward_events: how many of them belong to the forward.
        gradients: the addresses of the gradients of parameters and inputs.
        state: the addresses of the optimizer's state.

    """

    saved_bytes: int
    peak_bytes: int
    events: list[Event]
    forward_events: int
    gradients: frozenset[int]
    state: frozenset[int]


def measure(
    model: nn.Module,
    inputs: tuple[Any, ...],
    loss_fn: LossFn,
    optimizer: MakeOptimizer | None = None,
) -> Run:
    """Runs a step. Gradients are None before and after; anything else is the caller's to restore.

    With `optimizer` its step is part of it.
    """
    leaves = [t for t in (*model.parameters(), *pytree.tree_leaves(inputs)) if _is_leaf(t)]
    _forget(leaves)
    gc.collect()
    with memory.track(timeline=True) as tracked:
        output = model(*inputs)
        saved, forward_events = tracked.live_bytes, tracked.count_events()
        loss = loss_fn(output)
        del output
        if loss.requires_grad:
            loss.backward()
        del loss
        state: Any = None
        if optimizer is not None:
            made = optimizer([p for p in model.parameters() if p.requires_grad])
            made.step()
            state = list(made.state.values())
        gradients = addresses_of([t.grad for t in leaves])
    _forget(leaves)
    events = tracked.timeline()
    return Run(saved, tracked.peak_bytes, events, forward_events, gradients, addresses_of(state))


def seconds_of(model: nn.Module, inputs: tuple[Any, ...], loss_fn: LossFn) -> float:
    """The median time of a few steps: three, or fewer if they are long."""
    leaves = [t for t in (*model.parameters(), *pytree.tree_leaves(inputs)) if _is_leaf(t)]
    times: list[float] = []
    while len(times) < _STEPS and sum(times) < _ENOUGH_SECONDS:
        _forget(leaves)
        start = time.perf_counter()
        loss = loss_fn(model(*inputs))
        if loss.requires_grad:
            loss.backward()
        times.append(time.perf_counter() - start)
    _forget(leaves)
    return median(times)


@dataclass(frozen=True)
class Watched:
    """A step with every buffer told by the part of the model that allocated it.

    Attributes:
        watcher: its parts and results.
        events: of the forward.
        savers: the autograd nodes and what they keep; not asked for, empty.
        restored: (part, seconds) of each value that backward had restored; likewise.
        output: the addresses of what the forward returned.

    """

    watcher: Watcher
    events: list[Event]
    savers: list[Saver]
    restored: list[tuple[int, float]]
    output: frozenset[int]


def watch(
    model: nn.Module,
    call: Callable[..., Any],
    inputs: tuple[Any, ...],
    *,
    loss_fn: LossFn | None = None,
) -> Watched:
    """Runs a forward of `call`, whose graphs are those of `model`'s modules.

    With `loss_fn` a backward too, for the times; without, the savers are asked for.
    """
    gc.collect()
    with memory.track(timeline=True) as tracked:
        watcher = Watcher(model, tracked)
        with watcher.watching():
            output = call(*inputs)
        events = tracked.timeline()
    addresses = addresses_of(output)
    savers, restored = [], []
    if loss_fn is None:
        savers = savers_of(output)
    else:
        loss = loss_fn(output)
        _C.memory.begin_restore_times()
        try:
            if loss.requires_grad:
                loss.backward()
        finally:
            pairs = _C.memory.end_restore_times()
        restored = [(part, nanoseconds * 1e-9) for part, nanoseconds in pairs]
    return Watched(watcher, events, savers, restored, addresses)


def _is_leaf(item: Any) -> bool:
    return isinstance(item, Tensor) and item.is_leaf


def _forget(leaves: list[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None


def addresses_of(tree: Any) -> frozenset[int]:
    """Where the storages of the tensors in a tree begin."""
    leaves = (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))
    return frozenset(
        leaf.untyped_storage().data_ptr() for leaf in leaves if leaf.layout == torch.strided
    )
