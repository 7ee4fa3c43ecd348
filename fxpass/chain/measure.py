"""What the steps of a chain cost, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import fxpass.memory
from fxpass.chain.members import modules_of
from fxpass.chain.state import tensors_of, without_graph
from fxpass.chain.surroundings import Surroundings
from fxpass.schedule import Chain, Stage


def measure(steps: Sequence[Callable[[Any], Any]], x: Any) -> Chain:
    """Runs each step once by itself, forward and backward, and notes its seconds and bytes.

    Random numbers, buffers and plain attributes of modules, and `.grad` are as before afterwards.
    Backward's bytes have the gradients of the parameters that one step uses among them.

    Args:
        steps: as for `fxpass.checkpoint_chain`.
        x: the first state.

    Returns:
        A chain for `fxpass.schedule.optimal` and `fxpass.schedule.judge`.

    """
    modules = {id(module): module for step in steps for module in modules_of(step)}
    stages = []
    state, surroundings, rng = without_graph(x), Surroundings(), torch.get_rng_state()
    with surroundings.again(modules.values(), rng):
        for step in steps[:1]:
            _measured(step, state)  # for what torch does only once
    with surroundings.again(modules.values(), rng):
        for step in steps:
            stage, state = _measured(step, state)
            stages.append(stage)
    return Chain(tuple(stages), _bytes(state))


def _measured(step: Callable[[Any], Any], state: Any) -> tuple[Stage, Any]:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())
        return saved[-1]

    with fxpass.memory.track() as memory:
        start = time.perf_counter()
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            result = step(state)
        forward_seconds = time.perf_counter() - start
        tape, peak = memory.live_bytes, memory.peak_bytes
        backward_seconds, backward_peak = _backward(state, result, memory)
    return Stage(
        forward_seconds,
        backward_seconds,
        input_bytes=_bytes(state),
        tape_bytes=tape,
        # While a step runs again, what it saves is held until it has returned.
        forward_extra=max(0, peak - _bytes(result)),
        tape_extra=peak - tape,
        backward_extra=max(0, backward_peak - _bytes(state)),
    ), without_graph(result)


def _backward(state: Any, result: Any, memory: fxpass.memory.track) -> tuple[float, int]:
    """Seconds of the backward of one step, and its peak above what is live before."""
    outputs = [tensor for tensor in tensors_of(result) if tensor.requires_grad]
    if not outputs:
        return 0.0, 0
    gradients = [torch.ones_like(output) for output in outputs]
    inputs = [tensor for tensor in tensors_of(state) if tensor.requires_grad]
    inputs = list({id(t): t for t in (*inputs, *_leaves_behind(outputs))}.values())
    before = memory.live_bytes
    memory.reset_peak()
    start = time.perf_counter()
    # The graph may go on outside of the step, to a weight computed there: it is not ours to free.
    torch.autograd.grad(outputs, inputs, gradients, retain_graph=True, allow_unused=True)
    return time.perf_counter() - start, memory.peak_bytes - before


def _leaves_behind(outputs: list[Tensor]) -> list[Tensor]:
    """The leaves for which a backward from here computes gradients."""
    todo, seen, leaves = [output.grad_fn for output in outputs], {None}, []
    while todo:
        node: Any = todo.pop()
        if node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                leaves.append(node.variable)
            todo += [behind for behind, _ in node.next_functions]
    return leaves


def _bytes(state: Any) -> int:
    """Of the storages behind a state, each once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors_of(state)}
    return sum(storage.nbytes() for storage in storages.values())
