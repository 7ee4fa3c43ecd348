"""Schedules of a chain: the judge, uniform segments, and what is held when a backward begins."""

import pytest
from _schedules import chains
from hypothesis import given
from hypothesis import strategies as st

from fxpass.schedule import (
    Backward,
    Chain,
    Drop,
    Forward,
    Holdings,
    Keep,
    Stage,
    Tape,
    judge,
    plain,
    revolve,
    uniform,
)


def test_the_judge_counts_a_small_chain_as_one_does_by_hand():
    stages = (Stage(1.0, 3.0, 10, 7, 5, 1, 2), Stage(2.0, 4.0, 4, 9, 6, 0, 30))
    chain = Chain(stages, output_bytes=8)
    verdict = judge(
        chain, (Keep(0), Forward(0, 1), Tape(1), Backward(1), Tape(0), Backward(0), Drop(0))
    )
    assert verdict.timeline == (
        (0.0, 10),  # the first input
        (0.0, 10 + 4 + 5),  # stage 0 computes the input of stage 1
        (1.0, 10 + 4),
        (1.0, 10 + 4 + 9),  # stage 1 makes its tape, which belongs to its input
        (3.0, 10 + 4 + 9),
        (3.0, 10 + 4 + 9 + 8 + 4 + 30),  # its backward: both gradients, and what it needs
        (7.0, 10 + 4),  # the first input, and the gradient of the second
        (7.0, 10 + 4 + 7 + 1),
        (8.0, 10 + 4 + 7),
        (8.0, 10 + 4 + 7 + 10 + 2),
        (11.0, 10 + 10),
        (11.0, 10),  # all that is left is the gradient
    )
    assert (verdict.peak_bytes, verdict.seconds) == (65, 11.0)
    assert (verdict.forward_steps, verdict.most_kept) == (3, 1)


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ((Keep(1),), "action 0 .*Keep.*the input of stage 1 is not at hand"),
        ((Drop(0),), "the input of stage 0 is not kept"),
        ((Forward(1, 2),), "the input of stage 1 is not at hand"),
        ((Forward(0, 4),), "expected 0 <= first < end <= 3"),
        ((Forward(1, 1),), "expected 0 <= first < end <= 3"),
        ((Tape(1),), "the input of stage 1 is not at hand"),
        ((Tape(0), Tape(0)), "its tape is held already"),
        ((Tape(3),), "below 3"),
        ((Backward(2),), "the tape of stage 2 is not held"),
        ((Tape(0), Backward(0)), "expected the backward of stage 2 next"),
        ((Forward(0, 2), Tape(2), Backward(2), Tape(0)), "the input of stage 0 is not at hand"),
        ((Forward(0, 2), Tape(2), Backward(2), Tape(2)), "below 2"),
        ((Forward(0, 2), Tape(2), Backward(2)), "ends before that of stage 1"),
        ((), "ends before that of stage 2"),
    ],
)
def test_the_judge_refuses_what_is_impossible(schedule, problem):
    with pytest.raises(ValueError, match=problem):
        judge(Chain.equal(3), schedule)


@given(chains(most=8))
def test_plain_runs_everything_once_and_holds_it_all(chain):
    verdict = judge(chain, plain(chain))
    assert verdict.forward_steps == len(chain)
    held = chain.stages[0].input_bytes + sum(stage.tape_bytes for stage in chain.stages)
    assert max(live for _, live in verdict.timeline) == verdict.peak_bytes >= held


@pytest.mark.parametrize("length", [1, 2, 7, 12, 30])
def test_uniform_holds_what_checkpoint_sequential_holds(length):
    # Stages whose tape is one unit: what is held after the forward is the formula in the field.
    chain = Chain.equal(length)
    for segments in range(1, length + 1):
        schedule = uniform(chain, segments)
        first = next(i for i, a in enumerate(schedule) if isinstance(a, Backward))
        after_forward = [a for a in schedule[:first] if isinstance(a, (Keep, Tape))]
        tapes = length - length // segments * (segments - 1)
        assert len(after_forward) == segments + tapes  # the first input is one of them
        verdict = judge(chain, schedule)
        assert verdict.forward_steps == 2 * length - tapes
        assert verdict.most_kept == segments


@pytest.mark.parametrize("segments", [0, -1, 4])
def test_uniform_refuses_impossible_segments(segments):
    with pytest.raises(ValueError, match=f"from 1 to the number of stages, 3, got {segments}"):
        uniform(Chain.equal(3), segments)


def test_a_chain_has_stages():
    with pytest.raises(ValueError, match="at least one stage"):
        Chain(())


@given(st.data())
def test_holdings_are_those_of_the_judge(data):
    length = data.draw(st.integers(1, 12))
    chain = Chain.equal(length)
    schedule = data.draw(
        st.one_of(
            st.integers(1, length).map(lambda n: uniform(chain, n)),
            st.integers(1, length).map(lambda n: revolve(chain, n)),
        )
    )
    held = {}
    kept, tapes = set(), set()
    for action in schedule:
        match action:
            case Keep(stage):
                kept.add(stage)
            case Drop(stage):
                kept.discard(stage)
            case Tape(stage):
                tapes.add(stage)
            case Backward(stage):
                held[stage] = (set(kept), set(tapes))
                tapes.discard(stage)
    holdings = Holdings(schedule)
    for stage in data.draw(st.lists(st.integers(0, length - 1))):
        assert holdings.before(stage) == held[stage]


def test_holdings_have_the_state_after_a_tape():
    schedule = (Keep(0), Tape(0), Forward(1, 2), Tape(2), Backward(2), Tape(1), Backward(1))
    holdings = Holdings((*schedule, Backward(0)))
    assert holdings.before(2) == ({0, 1}, {0, 2})  # stage 1 starts again from the tape's output
    assert holdings.before(1) == ({0}, {0, 1})
