"""Revolve: against its closed form, its recursion, and the package checkpoint_schedules."""

from functools import cache

import checkpoint_schedules
import pytest

from fxpass.schedule import Backward, Chain, Tape, advances, default_slots, judge, revolve


def test_every_count_is_the_closed_forms():
    for length in range(1, 201):
        chain = Chain.equal(length)
        for slots in range(1, 21):
            verdict = judge(chain, revolve(chain, slots))
            assert verdict.forward_steps - length == advances(length, slots), (length, slots)
            assert verdict.most_kept <= slots


@cache
def recursion(length, slots):
    """Forward steps by the recursion: Opt[l, c] for l + 1 stages, with uf = 1 and ub = 0."""
    if length == 0:
        return 0
    if slots == 1:
        return length * (length + 1) // 2
    if length == 1:
        return 1
    return min(
        i + recursion(length - i, slots - 1) + recursion(i - 1, slots) for i in range(1, length)
    )


def test_the_closed_form_is_the_recursion():
    for length in range(1, 61):
        for slots in range(1, 12):
            assert advances(length, slots) == recursion(length - 1, slots)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 9])
def test_checkpoint_schedules_takes_as_many_steps(slots):
    for length in range(max(2, slots + 1), 40):
        expected = checkpoint_schedules.optimal_steps_binomial(length, slots)
        assert advances(length, slots) + length == expected
        theirs = checkpoint_schedules.MultistageCheckpointSchedule(length, slots, 0)
        steps = sum(
            len(action) for action in theirs if isinstance(action, checkpoint_schedules.Forward)
        )
        chain = Chain.equal(length)
        assert judge(chain, revolve(chain, slots)).forward_steps == steps


def test_one_tape_at_a_time():
    schedule = revolve(Chain.equal(30), 4)
    order = [a for a in schedule if isinstance(a, (Tape, Backward))]
    assert order == [kind(stage) for stage in reversed(range(30)) for kind in (Tape, Backward)]


def test_the_default_runs_no_stage_more_than_three_times():
    for length in (1, 2, 3, 4, 5, 10, 100, 1000, 1001):
        slots = default_slots(length)
        assert advances(length, slots) <= 2 * length
        assert slots == 1 or advances(length, slots - 1) > 2 * length - (slots + 1)
    assert default_slots(1000) == 44


def test_long_chains_and_more_slots_than_stages():
    chain = Chain.equal(3000)
    assert judge(chain, revolve(chain, 5000)).forward_steps == 3000 + 2999
    with pytest.raises(ValueError, match="slots to be at least 1, for the chain's input, got 0"):
        revolve(chain, 0)
