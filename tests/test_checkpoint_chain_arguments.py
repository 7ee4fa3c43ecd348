"""checkpoint_chain: what is refused, and how."""

import pytest
import torch
from _steps import Cell, batch

import fxpass
from fxpass.schedule import Chain, Keep, revolve

STEPS = [Cell() for _ in range(4)]


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        (
            STEPS[0],
            r"steps to be a sequence of callables, got _steps.Cell; .* give \[step",
        ),
        (torch.ones(3), "sequence of callables, got torch.Tensor"),
        (None, "sequence of callables, got builtins.NoneType"),
        ([STEPS[0], 3], r"expected steps\[1\] to be callable, from state to state, got builtins.i"),
    ],
)
def test_steps(steps, problem):
    with pytest.raises(TypeError, match=problem):
        fxpass.checkpoint_chain(steps, batch())


@pytest.mark.parametrize("schedule", ["rotor", None, 3, [Keep(0)]])
def test_schedule(schedule):
    with pytest.raises(ValueError, match=r"'uniform', 'revolve', 'optimal' or one made by fxpass"):
        fxpass.checkpoint_chain(STEPS, batch(), schedule=schedule)


def test_a_schedule_of_another_chain():
    with pytest.raises(ValueError, match="below 4"):
        fxpass.checkpoint_chain(STEPS, batch(), schedule=revolve(Chain.equal(5), 2))
    with pytest.raises(ValueError, match="expected the backward of stage 3 next"):
        fxpass.checkpoint_chain(STEPS, batch(), schedule=revolve(Chain.equal(3), 2))
    ready = revolve(Chain.equal(4), 2)
    with pytest.raises(ValueError, match=r"slots to be None beside a ready schedule.* got 2"):
        fxpass.checkpoint_chain(STEPS, batch(), schedule=ready, slots=2)


@pytest.mark.parametrize("slots", [0, -1, True, 2.5, "3"])
@pytest.mark.parametrize("schedule", ["uniform", "revolve", "optimal"])
def test_slots(schedule, slots):
    kind = ValueError if isinstance(slots, int) else TypeError
    with pytest.raises(kind, match=f"slots to be an integer of at least 1, or None .* {slots!r}"):
        fxpass.checkpoint_chain(STEPS, batch(), schedule=schedule, slots=slots)


def test_more_segments_than_steps():
    with pytest.raises(ValueError, match="segments, to be at most the number of steps, 4, got 5"):
        fxpass.checkpoint_chain(STEPS, batch(), schedule="uniform", slots=5)


def test_arguments_are_checked_where_no_gradient_is_wanted_too():
    with torch.no_grad(), pytest.raises(ValueError, match="expected schedule"):
        fxpass.checkpoint_chain(STEPS, batch(), schedule="rotor")


def test_an_impossible_budget():
    with pytest.raises(
        fxpass.BudgetError, match=r"into 100 bytes: the smallest .* is [\d,]+ bytes"
    ):
        fxpass.checkpoint_chain(STEPS, batch(), schedule="optimal", slots=100)
