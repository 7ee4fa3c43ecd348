"""A chain of stages and what each of them costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage. Seconds of a run, bytes of what it reads, leaves and needs meanwhile.

    Attributes:
        forward_seconds: of one run forward, with or without its tape.
        backward_seconds: of its backward.
        input_bytes: of the state that it reads; the gradient of a state is as large as the state.
        tape_bytes: of what is alive beyond its input when it has run keeping what its backward
            needs, its output included.
        forward_extra: the most bytes alive while it runs without its tape, beyond input and output.
        tape_extra: the same while it runs with its tape, beyond input and tape.
        backward_extra: the same during its backward, beyond input, tape, and the gradients of
            output and input.

    """

    forward_seconds: float = 1.0
    backward_seconds: float = 2.0
    input_bytes: int = 1
    tape_bytes: int = 1
    forward_extra: int = 0
    tape_extra: int = 0
    backward_extra: int = 0


@dataclass(frozen=True)
class Chain:
    """Stages, each of which reads what the one before it returned; `output_bytes`: of the last."""

    stages: tuple[Stage, ...]
    output_bytes: int = 1

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("expected a chain of at least one stage, got none")

    @classmethod
    def equal(cls, length: int, stage: Stage = Stage()) -> Chain:
        """A homogeneous chain: `length` times the same stage, by default one of unit costs."""
        return cls((stage,) * length, stage.input_bytes)

    def __len__(self) -> int:
        return len(self.stages)

    def state_bytes(self) -> list[int]:
        """Of the input of each stage, and of what the last one returns: len + 1 sizes."""
        return [*(stage.input_bytes for stage in self.stages), self.output_bytes]


def total_seconds(stages: Iterable[Stage]) -> float:
    """Of each stage once forward and once backward: less is not possible."""
    return sum(stage.forward_seconds + stage.backward_seconds for stage in stages)
