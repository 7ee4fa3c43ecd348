"""Hypothesis profiles: quick (the same examples every time), deep with FXPASS_HYPOTHESIS=deep."""

import gc
import os

import pytest
import torch
from _threads import torch_threads
from hypothesis import HealthCheck, settings

_COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}
settings.register_profile("quick", derandomize=True, **_COMMON)
settings.register_profile("deep", **_COMMON)
# pytest-xdist sets it; what is printed to a file or a pipe is as wide as it needs to be.
os.environ.pop("COLUMNS", None)
settings.load_profile(os.environ.get("FXPASS_HYPOTHESIS", "quick"))


@pytest.fixture(autouse=True)
def threads_as_found():
    """A test that sets the number of torch's threads sets it for itself alone."""
    with torch_threads(torch.get_num_threads()):
        yield


@pytest.fixture(params=[1, 2])
def threads(request):
    """Runs a test with one and with two of torch's threads."""
    with torch_threads(request.param):
        yield request.param


@pytest.fixture(scope="module")
def one_thread():
    """Threads that wait for each other on a busy machine would make small models slow."""
    with torch_threads(1):
        yield


@pytest.fixture
def no_garbage():
    """Reference counting alone must free everything: no collector runs."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def fresh_dynamo():
    """Nothing that torch.compile has remembered of other tests, and nothing for those to come."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
