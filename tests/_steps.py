"""Chains of steps for checkpoint_chain, beside the plain loop over the same modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxpass
from fxpass.schedule import Chain, Schedule, optimal, plain, smallest

WIDTH = 6


class Looped(nn.Module):
    """A module whose forward is the chain, plainly or by `checkpoint_chain`.

    `head` reads a parameter of the chain once more, before and after it.
    """

    def __init__(self, steps: Sequence[nn.Module], **arguments: Any) -> None:
        super().__init__()
        self.distinct = nn.ModuleList({id(step): step for step in steps}.values())
        self.steps = list(steps)
        self.outside = next(iter(self.distinct.parameters()), None)
        self.arguments: dict[str, Any] | None = None
        self.with_chain = arguments

    def forward(self, *state: Any) -> Any:
        x: Any = state[0] if len(state) == 1 else state
        if self.outside is not None:
            x = pytree.tree_map(self._around, x)
        x = self.run(x)
        return x if self.outside is None else pytree.tree_map(self._around, x)

    def run(self, x: Any) -> Any:
        for step in self.steps:
            x = step(x)
        return x

    def _around(self, leaf: Any) -> Any:
        wanted = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf * self.outside.sum() if wanted else leaf


class Chained(Looped):
    """The same with `checkpoint_chain`."""

    def run(self, x: Any) -> Any:
        return fxpass.checkpoint_chain(self.steps, x, **self.with_chain)


def twins(steps: Sequence[nn.Module], **arguments: Any) -> tuple[Looped, Chained]:
    """Both, sharing the modules."""
    return Looped(steps), Chained(steps, **arguments)


class Cell(nn.Module):
    """A step with weights."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x)) * x.sigmoid()


class Dropped(Cell):
    """That draws random numbers, and writes in place to what it has computed itself."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.4).add_(x).relu_()


class Normed(Cell):
    """With a batch norm, whose statistics each run would change."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x)) + x


class Counting(Cell):
    """Whose result depends on what it has in a buffer and in an attribute, and changes them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("moving", torch.zeros(WIDTH))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.moving = 0.5 * self.moving + x.detach().mean(0)
        return super().forward(x) * self.moving.cos() / self.calls


class Plain(nn.Module):
    """A step that saves nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Detached(nn.Module):
    """A step that lets no gradient through to half of its state."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :3].detach().exp().clamp(max=3), x[:, 3:] * x[:, :3]], 1)


class Forces(nn.Module):
    """A step that differentiates within itself, as Hamiltonian time loops do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            q = x if x.requires_grad else x.detach().requires_grad_()
            energy = torch.tanh(self.linear(q)).pow(2).sum()
            (force,) = torch.autograd.grad(energy, q, create_graph=True)
        return x - 0.1 * force


KINDS = (Cell, Dropped, Normed, Counting, Plain, Detached, Forces)


def batch(requires_grad: bool = True) -> Tensor:
    """A first state."""
    x = torch.linspace(-2, 2, 4 * WIDTH).sin_().view(4, WIDTH)
    return x.requires_grad_(requires_grad)


def every_schedule(length: int) -> dict[str, dict[str, Any]]:
    """Arguments of checkpoint_chain by name: each schedule, with several numbers of slots."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("uniform", "revolve"):
        for slots in sorted({1, min(2, length), min(3, length), length}):
            found[f"{name} {slots}"] = {"schedule": name, "slots": slots}
    found |= {name: {"schedule": name} for name in ("uniform", "revolve", "optimal")}
    chain = Chain.equal(length)
    made: dict[str, Schedule] = {
        "plain": plain(chain),
        "smallest": smallest(chain),
        "in 8 units": optimal(chain, 8),
    }
    return found | {name: {"schedule": schedule} for name, schedule in made.items()}
