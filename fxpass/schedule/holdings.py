"""What a schedule holds when the backward of a stage begins."""

from __future__ import annotations

from fxpass.schedule.actions import Backward, Drop, Keep, Schedule, Tape


class Holdings:
    """Reads a schedule from its start; asked for the stages in falling order it reads it once."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._rewind()

    def before(self, stage: int) -> tuple[set[int], set[int]]:
        """The stages whose inputs and those whose tapes are held; a new pair of sets.

        The input of a stage without a tape that follows one with a tape is among the inputs: it is
        part of that tape, and the schedule may start from it again.
        """
        if stage > self._next:
            self._rewind()
        while not (self._next == stage and self._is_backward()):
            self._step()
        after_tapes = {tape + 1 for tape in self._tapes if tape < stage} - self._tapes
        return self._kept | after_tapes, set(self._tapes)

    def _rewind(self) -> None:
        self._position = 0
        self._kept: set[int] = set()
        self._tapes: set[int] = set()
        self._next = max(a.stage for a in self._schedule if isinstance(a, Backward))

    def _is_backward(self) -> bool:
        return isinstance(self._schedule[self._position], Backward)

    def _step(self) -> None:
        match self._schedule[self._position]:
            case Keep(stage):
                self._kept.add(stage)
            case Drop(stage):
                self._kept.discard(stage)
            case Tape(stage):
                self._tapes.add(stage)
            case Backward(stage):
                self._tapes.discard(stage)
                self._next = stage - 1
        self._position += 1
