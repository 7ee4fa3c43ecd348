"""The most bytes live while the backward node of each convolution runs.

A node is found by the weight that it leads to, so those of two graphs of one model can be compared.
It is watched from its own pre-hook to that of the weight's AccumulateGrad, which autograd runs
right after it. No post-hook: with one, autograd keeps the gradients alive for it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

import fxpass

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def convs_of(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions of the model, by path."""
    return {path: m for path, m in model.named_modules() if isinstance(m, _CONVS)}


def conv_peaks(model: nn.Module, forward: Callable[[], Tensor]) -> dict[str, int]:
    """The peak of each convolution's backward node.

    Args:
        model: the model whose convolutions are watched; the gradients of its parameters must be
            None.
        forward: runs the model and returns the loss.

    Returns:
        By the path of the convolution, the most bytes live while its node ran, above what was live
        before the forward. Only of those whose weight is trained and that the loss depends on.

    """
    paths = {id(conv.weight): path for path, conv in convs_of(model).items()}
    peaks: dict[str, int] = {}
    gc.collect()
    with fxpass.memory.track() as memory:
        loss = forward()
        for node, of_weight, weight in _nodes_of(loss, paths):
            _watch(memory, node, of_weight, peaks, paths[id(weight)])
        loss.backward()
    return peaks


def _watch(
    memory: fxpass.memory.track, node: Node, of_weight: Node, peaks: dict[str, int], path: str
) -> None:
    def begin(_: Any) -> None:
        memory.reset_peak()

    def end(_: Any) -> None:
        peaks[path] = memory.peak_bytes

    node.register_prehook(begin)
    of_weight.register_prehook(end)


def _nodes_of(loss: Tensor, weights: dict[int, str]) -> Iterator[tuple[Node, Node, Tensor]]:
    """(node, AccumulateGrad of its weight, weight) of all nodes that read one of the weights."""
    assert loss.grad_fn is not None
    seen, todo = {loss.grad_fn}, [loss.grad_fn]
    while todo:
        node = todo.pop()
        for after, _ in node.next_functions:
            variable = getattr(after, "variable", None)
            if after is not None and variable is not None and id(variable) in weights:
                yield node, after, variable
            elif after is not None and after not in seen:
                seen.add(after)
                todo.append(after)
