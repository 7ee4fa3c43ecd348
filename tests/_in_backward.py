"""One model trained twice, by the plain loop and with the updates inside backward, every bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from _threads import torch_threads
from _twins import assert_same, bits
from torch import Tensor, nn, optim

import fxpass

Make = Callable[[nn.Module], optim.Optimizer]
Step = Callable[[nn.Module, optim.Optimizer, Tensor], Any]


class Net(nn.Module):
    """A tied weight, a weight of three dimensions and more, buffers, dropout; frozen and unused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.3)
        self.turn, self.head = nn.Linear(6, 6), nn.Linear(6, 4)
        self.frozen, self.unused = nn.Linear(6, 6), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn(self.conv(x))), 2).mean((2, 3))
        x = F.relu(self.turn(self.drop(x))) + self.frozen(x)
        x = F.relu(F.linear(x, self.turn.weight.t()))
        return self.head(x)


class Matrices(nn.Module):
    """Weights with two dimensions and nothing else, for Muon."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Linear(64, 12, bias=False), nn.Linear(12, 12, bias=False)
        self.head = nn.Linear(12, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.pool(F.relu(self.conv(x.flatten(2))))).mean(1))


class Sparse(nn.Module):
    """Weights with sparse gradients and nothing else, for SparseAdam."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.EmbeddingBag(20, 4, mode="sum", sparse=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        rows = (x.flatten(1)[:, :5].abs() * 7).long() % 20
        return self.a(rows) * self.b(rows + 0) + self.a(rows.flip(1))


def plain(model: nn.Module, optimizer: optim.Optimizer, x: Tensor) -> Tensor:
    """The loop as everybody writes it."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), torch.arange(len(x)) % 4)
    loss.backward()
    optimizer.step()
    return loss


def batches(count: int) -> Iterator[Tensor]:
    for i in range(count):
        yield torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(i))


def train(
    make_model: Callable[[], nn.Module],
    make: Make,
    inside: bool,
    step: Step = plain,
    steps: int = 3,
    compiled: bool = False,
) -> list[tuple[str, Any]]:
    """What there is after each step, by name, as integers."""
    torch.manual_seed(0)
    model = make_model()
    if compiled:
        model = fxpass.compile(model)
    optimizer = make(model)
    seen: list[tuple[str, Any]] = []
    with fxpass.optim.in_backward(optimizer) if inside else nullcontext():
        for x in batches(steps):
            out = step(model, optimizer, x)
            state = copy.deepcopy(optimizer.state_dict())
            seen += bits([out, dict(model.state_dict()), state, torch.get_rng_state()])
    return seen


@torch_threads(1)
def assert_equal(make_model: Callable[[], nn.Module], make: Make, **how: Any) -> None:
    """Fails unless both loops leave the same."""
    expected = train(make_model, make, inside=False, **how)
    assert_same(expected, train(make_model, make, inside=False, **how))
    assert_same(expected, train(make_model, make, inside=True, **how))
