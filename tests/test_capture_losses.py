"""Everything that a trace would lose is reported, with the module and the line, and undone."""

import copy
import gc
import random
import threading

import capture_cases as cases
import numpy as np
import pytest
import torch
from capture_cases import LOSSES, Lossless, Maybe, X, module_with
from torch import nn

from fxpass.capture import ArgPattern, Capture, Lossy, OwnForward, capture, capture_unit


def none_of_boundary(self, x):
    y = self.maybe(x)
    return x if y is None else y


def none_in_helper(self, x):
    return first_or(self.maybe(x), x)


def first_or(y, x):
    return x if y is None else y


def type_of_boundary(self, x):
    y = self.maybe(x)
    return y if isinstance(y, torch.Tensor) else x


def attribute_of_boundary(self, x):
    y = self.maybe(x)
    return y.loss if hasattr(y, "loss") else y


# The child that is called has no trace of its own, and its parent cannot be traced around it.
LOSSES_AROUND_A_BOUNDARY = [
    (none_of_boundary, "None"),
    (none_in_helper, "None"),
    (type_of_boundary, "isinstance"),
    (attribute_of_boundary, "'loss'"),
]


def state_of(module):
    """All that a lossy trace could have changed."""
    plain = {k: v for k, v in module.__dict__.items() if not k.startswith("_")}
    return copy.deepcopy(
        (
            {k: v.clone() for k, v in module.state_dict().items()},
            plain,
            vars(module.meter),
            [sorted(m.__dict__) for m in module.modules()],
            sorted(vars(type(module))),
            cases.FLAG,
            cases.COUNTS,
            torch.is_grad_enabled(),
            torch.get_rng_state(),
            random.getstate(),
            repr(np.random.get_state()),
        )
    )


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert_same(list(a.values()), list(b.values()))
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif not isinstance(a, (nn.Module, type(None))) and type(a).__name__ != "Meter":
        assert a == b


@pytest.mark.parametrize(("forward", "reason"), LOSSES, ids=lambda v: getattr(v, "__name__", ""))
def test_loss_is_reported_and_undone(forward, reason, capsys):
    module = module_with(forward)
    before, version = state_of(module), module.scale._version
    with pytest.raises(Lossy, match=reason) as caught:
        capture(module, ArgPattern.of((X,), {}))
    assert caught.value.module is module
    assert caught.value.path == ""
    assert_same(before, state_of(module))
    assert module.scale._version == version
    assert capsys.readouterr().out == ""
    assert torch.nn.Module.__setattr__.__module__ == "torch.nn.modules.module"


@pytest.mark.parametrize(("forward", "reason"), LOSSES, ids=lambda v: getattr(v, "__name__", ""))
def test_only_the_lossy_part_runs_its_own_forward(forward, reason):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = Lossless()
            self.parts = nn.Sequential(nn.ReLU(), module_with(forward))

        def forward(self, x):
            return self.parts(self.first(x))

    root = Root()
    found = capture_unit(root, ArgPattern.of((X,), {}))
    assert isinstance(found, Capture)
    assert found.boundaries == {"parts.1": root.parts[1]}
    assert [loss.path for loss in found.losses] == ["parts.1"]
    assert [n.target for n in found.graph.nodes if n.op == "call_module"] == ["parts.0", "parts.1"]


@pytest.mark.parametrize(("forward", "reason"), LOSSES_AROUND_A_BOUNDARY)
def test_parent_that_looks_at_a_boundarys_result(forward, reason):
    module = module_with(forward)
    found = capture_unit(module, ArgPattern.of((X,), {}))
    assert isinstance(found, OwnForward)
    assert [loss.path for loss in found.losses] == ["maybe", ""]
    assert reason in found.losses[-1].reason


def test_location_is_the_line_of_user_code():
    with pytest.raises(Lossy) as caught:
        capture(module_with(cases.no_grad), ArgPattern.of((X,), {}))
    file, line = caught.value.location.rsplit(":", 1)
    assert file == cases.__file__
    assert int(line) == cases.no_grad.__code__.co_firstlineno + 1
    assert "Part enters torch.no_grad" in str(caught.value)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_replaced_forward_and_torchscript_are_not_traced():
    module = Lossless()
    module.forward = lambda x: x
    with pytest.raises(Lossy, match="replaced"):
        capture(module, ArgPattern.of((X,), {}))
    script = torch.jit.script(nn.Sequential(nn.ReLU()))
    assert isinstance(capture_unit(script, ArgPattern.of((X,), {})), OwnForward)


def test_changed_argument_list():
    class Takes(nn.Module):
        def forward(self, xs):
            xs.append(xs[0] + 1)
            return xs[1]

    with pytest.raises(Lossy, match="list or dict"):
        capture(Takes(), ArgPattern.of(([X],), {}))


def test_rebinding_of_a_value_of_unknown_type():
    def forward(self, x):
        y = self.maybe(x)
        z = y
        z += 1
        return y, z

    found = capture_unit(module_with(forward), ArgPattern.of((X,), {}))
    assert isinstance(found, OwnForward)
    assert "+=" in found.losses[-1].reason


def test_deep_model_of_lossy_blocks_is_traced_a_few_times():
    root = nn.Sequential(*[Maybe() for _ in range(30)])
    found = capture_unit(root, ArgPattern.of((X,), {}))
    assert len(found.boundaries) == 30
    assert len(found.losses) == 3


def test_garbage_collection_is_no_part_of_the_program():
    calls = 0

    def callback(phase, info):
        nonlocal calls
        calls += 1

    gc.callbacks.append(callback)
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        capture(nn.Sequential(Lossless(), Lossless()), ArgPattern.of((X,), {}))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(callback)
    assert gc.isenabled()


def test_other_threads_are_left_alone():
    """fx replaces nn.Module.__call__ while it traces; a thread that trains must not notice."""
    other, errors, stop = nn.Sequential(Lossless(), nn.Linear(4, 4)), [], threading.Event()

    def run():
        while not stop.is_set():
            try:
                other.count = getattr(other, "count", 0) + 1
                assert isinstance(other(X), torch.Tensor)
            except BaseException as error:
                errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    root = nn.Sequential(*[nn.Sequential(Lossless(), nn.Linear(4, 4)) for _ in range(20)])
    try:
        for _ in range(10):
            capture(root, ArgPattern.of((X,), {}))
    finally:
        stop.set()
        thread.join()
    assert not errors
