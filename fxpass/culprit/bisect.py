"""Which rewritten op makes a compiled model differ from eager, and which edge to keep dense.

1. The model is compiled again with only the first k of its ops rewritten, in the order in which
   they run, and the others left as captured. Bisection finds a k at which it begins to differ:
   the op with that number is one of the culprits. This finds wrong gradients as well as
   wrong results, and needs no idea of what is wrong.
2. If that op alone makes no difference, the same search among those before it finds the ops that
   it needs beside it. What an op left as captured would have had restored is kept as a bitmap,
   and so restored rightly: the first of the ops that are needed is the one whose handle is wrong,
   and those behind it are the way on which that comes to light.
3. Of the values that these ops compute and save, the first which, kept dense, makes the difference
   go away is the edge. With that value dense, the whole model is compared again, and if it still
   differs the search goes on for the next.

Each search takes about log2 of the number of ops of trials; see trials.py for a trial. A kernel
that is wrong by accident, now and then, may lead it to an op that is not to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fxpass._oracle import Loop
from fxpass.culprit.trials import Group, Trials
from fxpass.plan import Choice, Plan, Recipe
from fxpass.runtime.module import CompiledModule

_MOST_CULPRITS = 8
_MOST_BEFORE_ALL = 3
"""After so many culprits, their kernels are taken to be wrong wherever they are used."""


@dataclass(frozen=True)
class Culprit:
    """Ops that together make a difference, and the edge between them, if one was found.

    Attributes:
        groups: in the order in which they run; none can be left out.
        edge: the value to keep dense; None if no single one helps.

    """

    groups: tuple[Group, ...]
    edge: Choice | None


@dataclass(frozen=True)
class Finding:
    """What the search has found.

    Attributes:
        culprits: the first of them first; empty if compiled again the model does not differ.
        dense: values which, kept dense, make the compiled model equal; empty if none were found.
        reproduced: whether the model compiled again differs.
        by_rewriting: whether it does not once no op is rewritten.

    """

    culprits: tuple[Culprit, ...] = ()
    dense: tuple[str, ...] = ()
    reproduced: bool = True
    by_rewriting: bool = True


def bisect(
    compiled: CompiledModule,
    inputs: tuple[Any, ...],
    loops: tuple[Loop, ...],
    step: int,
    begin: Callable[[], None],
) -> Finding:
    """Searches for what makes `compiled` differ from its original.

    Args:
        compiled: the model.
        inputs: what it is called with.
        loops: the training loops in which it should be eager's equal; in the first it is not.
        step: the step of that loop at which it first differs.
        begin: called before each trial.

    """
    culprits: list[Culprit] = []
    dense: tuple[str, ...] = ()
    for loop in loops:
        whole = Trials(compiled, inputs, loop, begin)
        short = whole
        if loop is loops[0]:
            short = Trials(compiled, inputs, replace(loop, steps=step + 1), begin)
        while whole.differs(dense):
            trials = short if short.differs(dense) else whole
            groups, plan = trials.look(dense)
            found = _first(trials, groups, plan, dense)
            if isinstance(found, Finding):
                return found if not culprits else Finding(tuple(culprits))
            culprits.append(found)
            if found.edge is None or len(culprits) == _MOST_CULPRITS:
                return Finding(tuple(culprits))
            dense = (*dense, found.edge.value)
            if len(culprits) == _MOST_BEFORE_ALL:
                alike = tuple(dict.fromkeys((*dense, *_alike(culprits, groups, whole.plan))))
                dense = dense if whole.differs(alike) else alike
    return Finding(tuple(culprits), dense, reproduced=bool(culprits))


def _first(
    trials: Trials, groups: list[Group], plan: Plan, dense: tuple[str, ...]
) -> Culprit | Finding:
    """The first culprit; a Finding if there can be none."""
    if not trials.differs(dense, groups):
        return Finding(reproduced=False)
    if trials.differs(dense, ()):
        return Finding(by_rewriting=False)
    number = _smallest(trials, groups, (), dense)
    before = groups[: number - 1]
    culprits: tuple[Group, ...] = (groups[number - 1],)
    while not trials.differs(dense, culprits):
        more = _smallest(trials, before, culprits, dense)
        before, culprits = before[: more - 1], (before[more - 1], *culprits)
    for choice in _edges(culprits, plan, trials.plan):
        if not trials.differs((*dense, choice.value), groups[:number]):
            return Culprit(culprits, choice)
    return Culprit(culprits, None)


def _smallest(
    trials: Trials, groups: list[Group], beside: tuple[Group, ...], dense: tuple[str, ...]
) -> int:
    """How many of the first groups it takes to differ; none do not, all do."""
    low, high = 0, len(groups)
    while high - low > 1:
        middle = (low + high) // 2
        if trials.differs(dense, (*groups[:middle], *beside)):
            high = middle
        else:
            low = middle
    return high


def _edges(culprits: tuple[Group, ...], plan: Plan, nameable: Plan) -> Iterator[Choice]:
    """The values that the ops compute or save, the likeliest first.

    Of several ops the first restores its own value wrongly. One op alone is most likely wrong in
    what it was rewritten for: its own result if that is restored, or else what it saves.
    """
    first = {name for group in culprits[:-1] for name in group.names}
    names = {name for group in culprits for name in group.names}
    restored = (Recipe.AFFINE, Recipe.RERUN, Recipe.CODE)

    def rank(choice: Choice) -> int:
        if choice.value in first:
            return 0
        return 1 if choice.value in names and choice.recipe in restored else 2

    known = {choice.value for choice in nameable}
    touched = [c for c in plan if not c.fixed and c.value in known and names & _ops(c)]
    yield from sorted(touched, key=rank)


def _ops(choice: Choice) -> set[str]:
    """The ops that compute and save a value, as a plan of the whole model names them."""
    path, colon, _ = choice.value.rpartition(":")
    return {f"{path}{colon}{name}" for name in choice.ops}


def _alike(culprits: list[Culprit], groups: list[Group], plan: Plan) -> list[str]:
    """The values of all edges at which ops of the same kinds are."""
    kinds = {n: kind for g in groups for n, kind in zip(g.names, g.kinds, strict=True)}
    wanted = {culprit.groups[0].kinds[-1] for culprit in culprits}
    return [c.value for c in plan if wanted & {kinds.get(op) for op in _ops(c)}]
