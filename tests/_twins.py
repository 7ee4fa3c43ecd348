"""Two models from one seed, one of them compiled, which must stay equal to the last bit."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _threads import torch_threads
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxpass
from fxpass._oracle import sum_of_outputs, value_of
from fxpass._preserved import preserved


class Net(nn.Module):
    """Two convolutions, each with a batch norm and a ReLU, a pool, dropout, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu, self.conv2 = nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout(0.5)
        self.head = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        return self.head(self.drop(x.flatten(1)))


X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).sin_().mul_(3).view(2, 3, 8, 8)


class Twins:
    """`eager` and `compiled`; `step` runs a training step of each and compares all there is."""

    def __init__(self, make: Callable[[], nn.Module] = Net, **arguments: Any) -> None:
        torch.manual_seed(0)
        self.eager = make()
        self.compiled: Any = fxpass.compile(copy.deepcopy(self.eager), **arguments)

    def each(self, change: Callable[[Any], Any]) -> None:
        """Does the same to both."""
        change(self.eager)
        change(self.compiled)

    @torch_threads(1)  # several that wait for each other make small models slow
    def step(
        self, *args: Any, loss_fn: Callable[[Any], Tensor] = sum_of_outputs, **kwargs: Any
    ) -> None:
        """One step of plain SGD on clones of `args` that require gradients; all must be equal."""
        args = args or (X,)
        seen = []
        for model in (self.eager, self.compiled):
            torch.manual_seed(1)
            model.zero_grad()
            leaves = [a.detach().clone() if isinstance(a, Tensor) else a for a in args]
            for leaf in leaves:
                if isinstance(leaf, Tensor) and leaf.is_floating_point():
                    leaf.requires_grad_()
            output = model(*leaves, **kwargs)
            loss = loss_fn(output)
            if loss.requires_grad:
                loss.backward()
            grads = {n: p.grad for n, p in model.named_parameters()}
            seen.append(
                bits([output, loss, [getattr(a, "grad", None) for a in leaves], grads])
                + bits([dict(model.named_buffers()), torch.get_rng_state()])
            )
            with torch.no_grad():
                for p in model.parameters():
                    if p.grad is not None:
                        p -= 0.05 * p.grad
        assert_same(*seen)
        assert_same(*(bits(dict(m.state_dict())) for m in (self.eager, self.compiled)))


def bits(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf of a tree by name: tensors as integers, with dtype, shape and strides."""
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return [(pytree.keystr(path), value_of(leaf, keep=True)) for path, leaf in leaves]


def assert_same(expected: list[tuple[str, Any]], found: list[tuple[str, Any]]) -> None:
    assert [name for name, _ in expected] == [name for name, _ in found]
    differing = [
        name
        for (name, a), (_, b) in zip(expected, found, strict=True)
        if (a if isinstance(a, str) else (a.facts, a.digest))
        != (b if isinstance(b, str) else (b.facts, b.digest))
    ]
    assert not differing, f"these differ: {differing}"


def operators(compiled: Any) -> list[str]:
    """The fxpass operators that compute values in the latest program of the model, in order.

    Those that only make handles, or pack what another op has kept, are in `all_operators`.
    """
    return [name for name in all_operators(compiled) if not makes_handles(name)]


def makes_handles(name: str) -> bool:
    """Whether an operator computes no value of its own; `bitmap` is counted as if it did."""
    return name in ("bind", "pack_noise", "keep_input", "keep_result") or name.startswith("rerun_")


def all_operators(compiled: Any) -> list[str]:
    """The fxpass operators that the latest program of the model calls, in order."""
    program = compiled._fxpass_unit.latest().program
    found = []
    for node in program.graph.nodes:
        if str(node.target).startswith("fxpass."):
            found.append(str(node.target).removeprefix("fxpass."))
        elif getattr(node.target, "__name__", "") == "call_hooked":
            found.append(node.args[1])
        elif getattr(node.target, "__name__", "") == "relu_max_pool_after_hooks":
            found.append("relu_max_pool_after_hooks")
    return found


def nodes_behind(output: Tensor, until: Any = None) -> Iterator[Any]:
    """Each autograd node behind an output once; not `until`, nor what is behind that alone."""
    todo, seen = [output.grad_fn], {None, until}
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            yield node
            todo += [n for n, _ in node.next_functions]


def nodes(output: Tensor) -> set[str]:
    """The names of all autograd nodes behind an output."""
    return {node.name() for node in nodes_behind(output)}


def is_compiled(output: Tensor) -> bool:
    """Whether any of them is ours."""
    return any(name.startswith("fxpass") for name in nodes(output))


def saved_bytes(model: nn.Module, *args: Any) -> int:
    """Live bytes after a forward, the output and the graph still there, above those before."""
    with preserved(model):
        model(*args)  # traces, if it has to
        gc.disable()  # what was left lying about before must not be freed in between
        try:
            with fxpass.memory.track() as memory:
                output = model(*args)
                live = memory.live_bytes
        finally:
            gc.enable()
        del output
    return live
