"""The judge: executes a schedule's actions on paper and counts.

The model is that of Beaumont et al., "Optimal checkpointing for heterogeneous chains" (2019): a
tape contains the output of its stage, and a backward needs the tape and the input of its stage and
the gradient of its output. The gradient of the last output comes into being at the first backward.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fxpass.schedule.actions import Action, Backward, Drop, Forward, Keep, Schedule, Tape
from fxpass.schedule.chain import Chain


@dataclass(frozen=True)
class Verdict:
    """What a schedule takes.

    Attributes:
        peak_bytes: the most bytes held at one moment, the chain's first input among them.
        seconds: of all runs, forward and backward.
        forward_steps: stages run forward, with and without their tapes, each run counted.
        most_kept: the most inputs held by `Keep` at one moment.
        timeline: (seconds since the start, bytes held), in order; the bytes hold until the next.

    """

    peak_bytes: int
    seconds: float
    forward_steps: int
    most_kept: int
    timeline: tuple[tuple[float, int], ...]


def judge(chain: Chain, schedule: Schedule) -> Verdict:
    """Executes the schedule for this chain on paper.

    Raises:
        ValueError: an action is impossible where it stands, or the backward is not complete.

    """
    desk = _Desk(chain)
    for position, action in enumerate(schedule):
        problem = desk.do(action)
        if problem:
            raise ValueError(f"action {position} of the schedule, {action}: {problem}")
    if desk.reversed_from != 0:
        raise ValueError(
            f"expected a schedule with the backward of all {len(chain)} stages, got one that ends "
            f"before that of stage {desk.reversed_from - 1}"
        )
    return Verdict(desk.peak, desk.seconds, desk.steps, desk.most_kept, tuple(desk.timeline))


@dataclass
class _Desk:
    """What is held at this moment, and the counts so far."""

    chain: Chain
    kept: set[int] = field(default_factory=set)
    tapes: set[int] = field(default_factory=set)
    state: int | None = 0
    live: int = 0
    gradient: int = 0
    peak: int = 0
    seconds: float = 0.0
    steps: int = 0
    most_kept: int = 0

    def __post_init__(self) -> None:
        self.bytes = self.chain.state_bytes()
        self.reversed_from = len(self.chain)
        self.live = self.peak = self.bytes[0]
        self.timeline: list[tuple[float, int]] = [(0.0, self.live)]

    def do(self, action: Action) -> str | None:
        """Executes an action, or says why that is impossible."""
        match action:
            case Forward(first, end):
                return self._forward(first, end)
            case Tape(stage):
                return self._tape(stage)
            case Backward(stage):
                return self._backward(stage)
            case Keep(stage):
                if not self._at_hand(stage):
                    return f"the input of stage {stage} is not at hand"
                self.kept.add(stage)  # and no byte more: it is at hand
                self.most_kept = max(self.most_kept, len(self.kept))
            case Drop(stage):
                if stage not in self.kept:
                    return f"the input of stage {stage} is not kept"
                before = self._input(stage)
                self.kept.discard(stage)
                self.live += self._input(stage) - before
                self._note()
        return None

    def _forward(self, first: int, end: int) -> str | None:
        if not first < end <= len(self.chain):
            return f"expected 0 <= first < end <= {len(self.chain)}"
        if not self._at_hand(first):
            return f"the input of stage {first} is not at hand"
        self._move_to(None)
        note, others = self.timeline.append, self.live
        before = 0 if self._held(first) else self.bytes[first]
        for stage in range(first, end):
            cost = self.chain.stages[stage]
            after = 0 if self._held(stage + 1) else self.bytes[stage + 1]
            during = others + before + after + cost.forward_extra
            note((self.seconds, during))
            self.seconds += cost.forward_seconds
            note((self.seconds, others + after))
            self.peak = max(self.peak, during)
            before = after
        self.steps += end - first
        self._move_to(end)
        return None

    def _tape(self, stage: int) -> str | None:
        if not 0 <= stage < self.reversed_from:
            return f"expected a stage whose backward is to come, below {self.reversed_from}"
        if stage in self.tapes:
            return "its tape is held already"
        if not self._at_hand(stage):
            return f"the input of stage {stage} is not at hand"
        self._move_to(stage)
        cost = self.chain.stages[stage]
        self._run(cost.forward_seconds, cost.tape_bytes + cost.tape_extra)
        # The input now belongs to the tape as well, and the output is part of it.
        self.live += cost.tape_bytes - self._input(stage + 1)
        self.tapes.add(stage)
        self._move_to(stage + 1)
        self.steps += 1
        self._note()
        return None

    def _backward(self, stage: int) -> str | None:
        if stage != self.reversed_from - 1:
            return f"expected the backward of stage {self.reversed_from - 1} next"
        if stage not in self.tapes:
            return f"the tape of stage {stage} is not held"
        self._move_to(None)
        cost = self.chain.stages[stage]
        if stage == len(self.chain) - 1:
            self.gradient = self.bytes[stage + 1]
            self.live += self.gradient
        self._run(cost.backward_seconds, self.bytes[stage] + cost.backward_extra)
        self.live += self.bytes[stage] - self.gradient - cost.tape_bytes
        self.gradient = self.bytes[stage]
        before = self._input(stage) + self._input(stage + 1)
        self.tapes.discard(stage)
        self.live += self._input(stage) + self._input(stage + 1) - before
        self.reversed_from = stage
        self._note()
        return None

    def _held(self, stage: int) -> bool:
        """Whether the input of a stage is held whatever the state is."""
        return stage in self.kept or stage in self.tapes or stage - 1 in self.tapes

    def _at_hand(self, stage: int) -> bool:
        """Whether the input of a stage is there to be read."""
        return stage == self.state or self._held(stage)

    def _input(self, stage: int) -> int:
        """Bytes held for the input of a stage alone: those in a tape count as the tape's."""
        if stage - 1 in self.tapes or not self._at_hand(stage):
            return 0
        return self.bytes[stage]

    def _move_to(self, stage: int | None) -> None:
        """Makes the input of a stage, which is at hand or has just been computed, the state."""
        old = self.state
        if old == stage:
            return
        touched = [s for s in (old, stage) if s is not None]
        before = sum(map(self._input, touched))
        self.state = stage
        self.live += sum(map(self._input, touched)) - before

    def _run(self, seconds: float, more: int) -> None:
        """A run during which so many bytes more are alive."""
        self.peak = max(self.peak, self.live + more)
        self.timeline.append((self.seconds, self.live + more))
        self.seconds += seconds

    def _note(self) -> None:
        self.peak = max(self.peak, self.live)
        self.timeline.append((self.seconds, self.live))
