"""Groups of stages: a schedule of the groups costs no more when it is spelled out."""

from dataclasses import replace

from _schedules import chains
from hypothesis import given
from hypothesis import strategies as st

from fxpass.schedule import judge, revolve, uniform
from fxpass.schedule.group import Groups


@given(chains(most=12), st.integers(1, 5), st.sampled_from([1, 20]), st.data())
def test_the_shorter_chain_is_judged_no_cheaper(chain, size, scale, data):
    # Where running forward takes much, it is what makes the peak.
    stages = tuple(replace(s, forward_extra=scale * s.forward_extra) for s in chain.stages)
    chain = replace(chain, stages=stages)
    groups = Groups(chain, size)
    shorter = groups.chain()
    number = data.draw(st.integers(1, len(shorter)))
    for planner in (uniform, revolve):
        schedule = planner(shorter, number)
        judged, real = judge(shorter, schedule), judge(chain, groups.spelled_out(schedule))
        assert real.peak_bytes <= judged.peak_bytes
        assert real.seconds == judged.seconds
        if size == 1:
            assert real == judged
