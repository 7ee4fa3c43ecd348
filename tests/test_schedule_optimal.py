"""The optimal schedule: against all schedules of small chains, and the other planners."""

import random

import pytest
from _schedules import chains, fewest_seconds
from hypothesis import assume, given
from hypothesis import strategies as st

import fxpass
from fxpass.schedule import (
    Chain,
    Stage,
    judge,
    optimal,
    plain,
    revolve,
    smallest,
    smallest_bytes,
    uniform,
)
from fxpass.schedule.chain import total_seconds

FINE = 10**9  # units of one byte: nothing is rounded


@given(chains(most=4), st.floats(0, 1))
def test_as_fast_as_the_best_of_all_schedules(chain, share):
    least, most = smallest_bytes(chain), judge(chain, plain(chain)).peak_bytes
    budget = least + int(share * (most - least))
    verdict = judge(chain, optimal(chain, budget, slots=FINE))
    assert verdict.peak_bytes <= budget
    assert verdict.seconds == fewest_seconds(chain, budget, persistent=True)
    assert verdict.seconds >= fewest_seconds(chain, budget, persistent=False)


@given(chains(most=4))
def test_the_smallest_budget_is_the_smallest(chain):
    least = smallest_bytes(chain)
    assert judge(chain, smallest(chain)).peak_bytes == least
    assert fewest_seconds(chain, least, persistent=True) is not None
    assert fewest_seconds(chain, least - 1, persistent=True) is None
    for slots in (1, 3, 500):
        assert judge(chain, optimal(chain, least, slots=slots)).peak_bytes == least
    with pytest.raises(fxpass.BudgetError, match=f"possible budget is {least:,} bytes"):
        optimal(chain, least - 1)


@given(chains(most=12), st.floats(0, 1), st.integers(1, 40))
def test_never_above_the_budget_however_coarse(chain, share, slots):
    least, most = smallest_bytes(chain), judge(chain, plain(chain)).peak_bytes
    budget = least + int(share * (most - least))
    verdict = judge(chain, optimal(chain, budget, slots=slots))
    assert verdict.peak_bytes <= budget
    assert verdict.seconds >= total_seconds(chain.stages)


@given(chains(most=12), st.integers(1, 12))
def test_no_other_planner_is_faster_at_the_same_bytes(chain, number):
    assume(number <= len(chain))
    for planner in (uniform, revolve):
        other = judge(chain, planner(chain, number))
        ours = judge(chain, optimal(chain, other.peak_bytes, slots=FINE))
        assert ours.peak_bytes <= other.peak_bytes
        assert ours.seconds <= other.seconds


def long_chain(length):
    draw = random.Random(0)
    sizes = [draw.randint(1, 10**6) for _ in range(6 * length)]
    return Chain(
        tuple(
            Stage(draw.random(), draw.random(), *sizes[6 * i : 6 * i + 5]) for i in range(length)
        ),
        sizes[-1],
    )


@pytest.mark.parametrize("length", [50, 150])
def test_long_chains_fit_their_budget(length):
    chain = long_chain(length)
    budget = judge(chain, plain(chain)).peak_bytes // 4
    assert judge(chain, optimal(chain, budget)).peak_bytes <= budget


def test_what_rounding_costs():
    # As the docstring says: at most one unit for every state and tape held at once.
    chain = long_chain(40)
    budget = judge(chain, plain(chain)).peak_bytes // 3
    fine = judge(chain, optimal(chain, budget, slots=4000)).seconds
    coarse = judge(chain, optimal(chain, budget, slots=500)).seconds
    assert coarse <= 1.02 * fine


def test_a_homogeneous_chain_loses_nothing_by_units():
    chain = Chain.equal(60, Stage(1.0, 2.0, 1 << 20, 5 << 20))
    for budget in (20 << 20, 40 << 20, 100 << 20):
        schedules = [optimal(chain, budget, slots=slots) for slots in (100, 500, 100_000)]
        assert schedules[0] == schedules[1] == schedules[2]


@given(chains(most=12), st.floats(0, 1), st.integers(1, 6))
def test_groups_of_a_long_chain_stay_within_the_budget(chain, share, most_stages):
    least, most = smallest_bytes(chain), judge(chain, plain(chain)).peak_bytes
    budget = least + int(share * (most - least))
    verdict = judge(chain, optimal(chain, budget, slots=FINE, most_stages=most_stages))
    assert verdict.peak_bytes <= budget
    fine = judge(chain, optimal(chain, budget, slots=FINE))
    assert verdict.seconds >= fine.seconds


def test_groups_lose_little():
    chain = Chain.equal(600, Stage(1.0, 2.0, 1 << 20, 3 << 20))
    budget = judge(chain, revolve(chain, 40)).peak_bytes
    by_groups = judge(chain, optimal(chain, budget))
    assert by_groups.peak_bytes <= budget
    assert by_groups.seconds < judge(chain, revolve(chain, 40)).seconds


@pytest.mark.parametrize("slots", [0, -3])
def test_slots_are_positive(slots):
    with pytest.raises(ValueError, match="slots to be at least 1"):
        optimal(Chain.equal(3), 100, slots=slots)
