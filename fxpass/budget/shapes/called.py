"""One call in a graph, as the rules see it: shapes by role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fxpass.budget.probe import Gradient

FLOPS_PER_SECOND = 1e11
BYTES_PER_SECOND = 1e10
"""Two rates of a small machine. Only the ratios of the seconds made of them mean something."""


@dataclass(frozen=True)
class Called:
    """A call of an operator.

    Attributes:
        name: of the op, as `fxpass.edges` calls it, or that of fxpass' operator.
        roles: of each tensor among the arguments, in their order: "input", "weight", ...
        tensors: those tensors, real or fake: only their shapes, strides and dtypes are read.
        needs: of each, whether it needs a gradient.
        result: the value.
        options: arguments that are no tensors, by name.
        alias: the tensor in whose storage the result lies, if in any.

    """

    name: str
    roles: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    needs: tuple[bool, ...]
    result: Tensor
    options: dict[str, Any]
    alias: int | None

    def place(self, role: str) -> int | None:
        """Where among the tensors the one of this role is; None if it is not given."""
        return self.roles.index(role) if role in self.roles else None

    def tensor(self, role: str) -> Tensor:
        """The tensor of this role, which is given."""
        return self.tensors[self.roles.index(role)]

    def needs_of(self, role: str) -> bool:
        """Whether the tensor of this role is given and needs a gradient."""
        place = self.place(role)
        return place is not None and self.needs[place]

    @property
    def parameters(self) -> frozenset[int]:
        """The places of the parameters."""
        return frozenset(i for i, role in enumerate(self.roles) if role in ("weight", "bias"))

    @property
    def trains(self) -> bool:
        """Whether any tensor needs a gradient."""
        return any(self.needs)

    def gradients(self, handed_on: bool = False) -> dict[int, Gradient]:
        """Of each tensor that needs one; `handed_on`: those of the inputs lie in the output's."""
        return {
            place: Gradient(tensor.nbytes, handed_on and role == "input")
            for place, (role, tensor) in enumerate(zip(self.roles, self.tensors, strict=True))
            if self.needs[place]
        }

    def gradient_bytes(self, *roles: str) -> int:
        """Of the gradients of these roles."""
        pairs = zip(self.roles, self.tensors, self.needs, strict=True)
        return sum(t.nbytes for role, t, needs in pairs if needs and role in roles)


def moving(*n_bytes: int) -> float:
    """Seconds of reading or writing so many bytes."""
    return sum(n_bytes) / BYTES_PER_SECOND


def computing(flops: float) -> float:
    """Seconds of so many multiplications and additions."""
    return flops / FLOPS_PER_SECOND
