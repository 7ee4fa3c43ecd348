"""The five actions of which schedules are made.

Stages are numbered from 0. "The state" is the last one computed; "the input of stage 3" is the
state that stage 2 returned. An action that reads an input takes it from where it is held: kept,
part of the tape of the stage before, or the state.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keep:
    """Hold the input of a stage until it is dropped.

    `Keep(3)`: the input of stage 3 is at hand; from here on it stays.
    """

    stage: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Give up the kept input of a stage.

    `Drop(3)`: nobody will start from the input of stage 3 again.
    """

    stage: int


@dataclass(frozen=True, slots=True)
class Forward:
    """Run some stages and keep nothing of them.

    `Forward(3, 7)`: run stages 3, 4, 5 and 6; the state is now the input of stage 7.
    """

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Tape:
    """Run a stage and hold what its backward needs.

    `Tape(3)`: run stage 3 on its input, and keep its tape; the input stays with the tape, and the
    state, now the input of stage 4, is part of it.
    """

    stage: int


@dataclass(frozen=True, slots=True)
class Backward:
    """Run the backward of a stage, which uses up its tape.

    `Backward(3)`: from the gradient of what stage 3 returned to that of its input.
    """

    stage: int


Action = Keep | Drop | Forward | Tape | Backward
Schedule = tuple[Action, ...]
