"""A chain at work: eager's graph without its tapes, and the schedule that makes them again.

1. The steps run once, under autograd, with hooks on saved tensors: the graph is eager's own, node
   by node, so gradients are summed in eager's order. In the place of each saved tensor it holds a
   handle. The states and tapes that the schedule holds before the first backward stay.
2. Autograd asks a handle of step i for its tensor. If it is not there, what the schedule holds
   when the backward of stage i begins is brought about: what is too much is dropped, and from the
   nearest kept state the steps up to i run again, as the first time, each checked against it.
3. The graph frees a handle when its node has run, and with it the tensor.

Backward may ask in any order, skip steps, or come twice: the first state is always kept, and from
it everything can be made again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fxpass.chain.members import modules_of
from fxpass.chain.state import Kept, without_graph
from fxpass.chain.surroundings import Surroundings
from fxpass.chain.tape import Handle, Tape
from fxpass.schedule import Holdings, Schedule

Step = Callable[[Any], Any]


class Run:
    """One call of `checkpoint_chain`; lives as long as a handle of its graph."""

    def __init__(self, steps: Sequence[Step], schedule: Schedule) -> None:
        modules = {id(step): modules_of(step) for step in steps}
        self._tapes = [Tape(self, i, step, modules[id(step)]) for i, step in enumerate(steps)]
        self._holdings = Holdings(schedule)
        self._kept: dict[int, Kept] = {}
        self._held: set[int] = set()  # the stages of which something saved is held
        self._surroundings = Surroundings()
        self._rng = torch.get_rng_state()
        self._task: int | None = None
        # Several threads may run backward through one graph at once.
        self._lock = threading.RLock()

    def forward(self, state: Any) -> Any:
        """Runs all steps, for the first time."""
        keep, hold = self._holdings.before(len(self._tapes) - 1)
        self._held = hold
        for stage, tape in enumerate(self._tapes):
            if stage in keep or stage == 0:
                self._keep(stage, state)
            state = tape.first_run(state, stage in hold)
        return state

    def provide(self, handle: Handle) -> Tensor:
        """The tensor that a handle stands for."""
        with self._lock:
            if handle.value is None:
                self._at_end_of_backward()
                self._make(handle.stage)
            assert handle.value is not None  # the number of saved tensors has been compared
            return handle.value

    def _make(self, stage: int) -> None:
        """Makes the tape of a stage, and holds what the schedule holds then."""
        keep, hold = self._holdings.before(stage)
        self._drop_all_but(keep, hold)
        hold = {i for i in hold | {stage} if i <= stage and not self._tapes[i].is_complete}
        missing = hold | (keep - self._kept.keys())
        start = max(i for i in self._kept if i <= min(missing))
        state = self._kept[start].state(start)
        modules = {id(m): m for tape in self._tapes[start : stage + 1] for m in tape.modules}
        self._held |= hold
        with self._surroundings.again(modules.values(), self._kept[start].rng):
            for i in range(start, stage + 1):
                if i in keep and i not in self._kept:
                    self._keep(i, state)
                state = without_graph(self._tapes[i].run_again(state, i in hold))

    def _keep(self, stage: int, state: Any) -> None:
        rng = torch.get_rng_state()
        if torch.equal(rng, self._rng):
            rng = self._rng  # most steps draw nothing, and share one copy
        self._rng = rng
        self._kept[stage] = Kept(state, rng)

    def _drop_all_but(self, keep: set[int], hold: set[int]) -> None:
        self._kept = {i: kept for i, kept in self._kept.items() if i == 0 or i in keep}
        for i in self._held - hold:
            self._tapes[i].drop()
        self._held &= hold

    def _at_end_of_backward(self) -> None:
        """Asks autograd, once a backward, to let go of what is held when it is through."""
        task = torch._C._current_graph_task_id()
        if task in (-1, self._task):
            return
        self._task = task
        let_go = weakref.WeakMethod(self._let_go)

        def callback() -> None:
            method = let_go()
            if method is not None:
                method()

        torch.autograd.Variable._execution_engine.queue_callback(callback)

    def _let_go(self) -> None:
        with self._lock:
            self._drop_all_but({0}, set())
