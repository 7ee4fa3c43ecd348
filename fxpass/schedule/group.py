"""A long chain as a shorter one, whose stages are groups of consecutive stages."""

from __future__ import annotations

from dataclasses import dataclass

from fxpass.schedule.actions import Action, Backward, Drop, Forward, Keep, Schedule, Tape
from fxpass.schedule.chain import Chain, Stage


@dataclass(frozen=True)
class Groups:
    """The same stages, `size` at a time; a group's tape is the tapes of all its stages."""

    whole: Chain
    size: int

    def chain(self) -> Chain:
        """The shorter chain; its costs are those of its groups' runs, none is too small."""
        stages = [self._stage(first, self._end(first)) for first in self._firsts()]
        return Chain(tuple(stages), self.whole.output_bytes)

    def spelled_out(self, schedule: Schedule) -> Schedule:
        """A schedule of the shorter chain as one of the whole."""
        firsts = [*self._firsts(), len(self.whole)]
        actions: list[Action] = []
        for action in schedule:
            match action:
                case Forward(first, end):
                    actions.append(Forward(firsts[first], firsts[end]))
                case Tape(group):
                    actions += map(Tape, range(firsts[group], firsts[group + 1]))
                case Backward(group):
                    actions += map(Backward, reversed(range(firsts[group], firsts[group + 1])))
                case Keep(group) | Drop(group):
                    actions.append(type(action)(firsts[group]))
        return tuple(actions)

    def _firsts(self) -> range:
        return range(0, len(self.whole), self.size)

    def _end(self, first: int) -> int:
        return min(first + self.size, len(self.whole))

    def _stage(self, first: int, end: int) -> Stage:
        states = self.whole.state_bytes()
        tape, forward, taping, backward = 0, 0, 0, 0
        for i in range(first, end):
            stage = self.whole.stages[i]
            alone = 0 if i == first else states[i]
            forward = max(forward, alone + states[i + 1] + stage.forward_extra)
            tape += stage.tape_bytes
            taping = max(taping, tape + stage.tape_extra)
            backward = max(backward, tape + states[i] + states[i + 1] + stage.backward_extra)
        stages = self.whole.stages[first:end]
        return Stage(
            sum(stage.forward_seconds for stage in stages),
            sum(stage.backward_seconds for stage in stages),
            input_bytes=states[first],
            tape_bytes=tape,
            forward_extra=forward - states[end],
            tape_extra=taping - tape,
            backward_extra=max(0, backward - tape - states[first] - states[end]),
        )
