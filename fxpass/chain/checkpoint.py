"""`checkpoint_chain`: what the caller gives, checked, and the schedule that it asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fxpass.chain.measure import measure
from fxpass.chain.run import Run, Step
from fxpass.schedule import (
    Chain,
    Schedule,
    default_slots,
    judge,
    optimal,
    revolve,
    uniform,
)


def checkpoint_chain(
    steps: Sequence[Step],
    x: Any,
    *,
    schedule: str | Schedule = "revolve",
    slots: int | None = None,
) -> Any:
    """`for step in steps: x = step(x)`, keeping a few of the states for backward, not everything.

    Gradients are those of the plain loop to the last bit: the graph is eager's own, and only what
    the steps have saved for backward is given up and made again, by running steps from the nearest
    kept state. Random numbers (torch's default generator), autocast, and buffers and plain
    attributes of modules are in each such run what they were the first time, and afterwards what
    they were before it. Where no gradient is wanted (`torch.no_grad()`) it is the plain loop.

    Args:
        steps: callables from state to state. A state is a tensor, or a tuple, list or dict of
            tensors and other values, nested; the states may differ in shape. A step computes the
            same again from the same state, and does not write to it in place.
        x: the first state.
        schedule: "uniform", "revolve" or "optimal", or a schedule made by `fxpass.schedule`.
        slots: of "uniform" the number of segments, by default the square root of the number of
            steps; of "revolve" the number of states kept at once, the first one among them, by
            default the fewest with which no step runs more than three times; of "optimal" the
            memory in bytes, by default the peak that "revolve" would have by its default.
            "optimal" runs each step once by itself, forward and backward, to measure it: for a
            training loop, measure once and give the schedule (`fxpass.chain.measure`).

    Returns:
        The last state.

    Raises:
        TypeError, ValueError: bad arguments.
        fxpass.BudgetError: "optimal" cannot do with so few bytes; names the smallest possible.
        RuntimeError: a step writes to its state in place. In backward: what a step has saved was
            written to (as eager does); a kept state was written to; or a step, run again, did
            not do what it did the first time.

    """
    steps = _checked_steps(steps)
    actions = _schedule_of(schedule, slots, steps, x)
    if not steps or not torch.is_grad_enabled():
        for step in steps:
            x = step(x)
        return x
    return Run(steps, actions()).forward(x)


def _checked_steps(steps: Any) -> list[Step]:
    if isinstance(steps, torch.Tensor) or not hasattr(steps, "__iter__"):
        raise TypeError(
            "checkpoint_chain: expected steps to be a sequence of callables, got "
            f"{_kind(steps)}; for one step give [step]"
        )
    found = list(steps)
    for i, step in enumerate(found):
        if not callable(step):
            raise TypeError(
                f"checkpoint_chain: expected steps[{i}] to be callable, from state to state, got "
                f"{_kind(step)}"
            )
    return found


def _schedule_of(schedule: Any, slots: Any, steps: list[Step], x: Any) -> Any:
    """Checks both arguments, and returns a function that makes the schedule."""
    chain = Chain.equal(max(len(steps), 1))
    if isinstance(schedule, tuple):
        if slots is not None:
            raise ValueError(
                "checkpoint_chain: expected slots to be None beside a ready schedule, which has "
                f"its own, got {slots!r}"
            )
        if steps:
            judge(chain, schedule)
        return lambda: schedule
    if not isinstance(schedule, str) or schedule not in ("uniform", "revolve", "optimal"):
        raise ValueError(
            "checkpoint_chain: expected schedule to be 'uniform', 'revolve', 'optimal' or one made "
            f"by fxpass.schedule, got {schedule!r}"
        )
    if slots is not None and (not isinstance(slots, int) or isinstance(slots, bool) or slots < 1):
        raise (ValueError if isinstance(slots, int) else TypeError)(
            "checkpoint_chain: expected slots to be an integer of at least 1, or None for the "
            f"default, got {slots!r}"
        )
    if schedule == "uniform":
        if slots is not None and slots > len(chain):
            raise ValueError(
                "checkpoint_chain: expected slots, the number of segments, to be at most the "
                f"number of steps, {len(steps)}, got {slots}"
            )
        segments = slots or math.isqrt(len(chain) - 1) + 1
        return lambda: uniform(chain, segments)
    if schedule == "revolve":
        return lambda: revolve(chain, slots or default_slots(len(chain)))

    def measured() -> Schedule:
        costs = measure(steps, x)
        default = revolve(chain, default_slots(len(chain)))
        return optimal(costs, slots or judge(costs, default).peak_bytes)

    return measured


def _kind(item: Any) -> str:
    return f"{type(item).__module__}.{type(item).__qualname__}"
