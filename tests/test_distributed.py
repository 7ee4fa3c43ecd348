"""Data parallel training: equal to eager's under the same wrapper on each rank, every bit."""

import pytest
from _distributed import CASES, run_in_two
from _twins import Twins, operators
from torch import nn

import fxpass


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What went wrong in each case: one start of two processes for all of them."""
    return run_in_two(list(CASES), tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("name", CASES)
def test_it_equals_eager(name, found):
    for rank, wrong in enumerate(found[name]):
        assert not wrong, f"rank {rank}: {wrong}"


def test_data_parallel_without_a_gpu_calls_the_module():
    twins = Twins.__new__(Twins)
    inner = Twins()
    twins.eager = nn.DataParallel(inner.eager)
    twins.compiled = fxpass.compile(nn.DataParallel(inner.compiled.original), strict=True)
    twins.step()
    child = next(iter(twins.compiled._fxpass_unit._children.values()))
    assert "conv2d" in str(child.latest().program.source)
    twins.compiled = nn.DataParallel(inner.compiled)
    twins.step()
    assert "conv2d" in operators(inner.compiled)
