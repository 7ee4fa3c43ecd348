"""Everything that a trace would lose is reported, with the module and the line, and undone."""

import copy
import datetime
import gc
import random
import threading
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from fxpass.capture import ArgPattern, Capture, Lossy, OwnForward, capture, capture_unit

X = torch.linspace(-1, 1, 12).view(3, 4)
MEAN = torch.ones(4)
COUNTS = []
FLAG = 0


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 3


class Lossless(nn.Module):
    def forward(self, x):
        return x + 1


class Maybe(nn.Module):
    """Has no believable trace, and sometimes gives nothing."""

    def forward(self, x):
        return x if x.sum() > 0 else None


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.bn = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(()))
        self.scale = torch.ones(4)
        self.counter = 0
        self.history = [1]
        self.options = {"deep": {"k": []}}
        self.maybe = Maybe()
        self.plain = [nn.Linear(4, 4)]
        self.meter = type("Meter", (), {})()
        self.meter.count = 0


def no_grad(self, x):
    with torch.no_grad():
        y = self.fc(x)
    return x + y


def no_grad_decorated(self, x):
    return torch.no_grad()(lambda: self.fc(x))()


def enable_grad(self, x):
    with torch.enable_grad():
        return self.fc(x)


def set_grad_enabled(self, x):
    torch.set_grad_enabled(False)
    return self.fc(x)


def set_grad_in_c(self, x):
    torch._C._set_grad_enabled(False)
    return self.fc(x)


def inference_mode(self, x):
    with torch.inference_mode():
        return self.fc(x)


def autocast(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.fc(x)


def saved_hooks(self, x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return self.fc(x)


def save_on_cpu(self, x):
    with torch.autograd.graph.save_on_cpu():
        return self.fc(x)


def checkpointed(self, x):
    return checkpoint(self.fc, x, use_reentrant=False)


def custom_function(self, x):
    return Double.apply(self.fc(x))


def torch_random(self, x):
    return x + torch.randn(4)


def zeros_constant(self, x):
    return x + torch.zeros(4)


def new_parameter(self, x):
    return x + nn.Parameter(torch.ones(4))


def global_tensor(self, x):
    return x - MEAN


def python_random(self, x):
    return x * 2 if random.random() > 0.5 else x * 3


def python_randint(self, x):
    return x * random.randint(1, 5)


def numpy_random(self, x):
    return x * float(np.random.rand())


def numpy_generator(self, x):
    return x * float(np.random.default_rng().random())


def reads_grad_mode(self, x):
    return x * 2 if torch.is_grad_enabled() else x


def reads_autocast(self, x):
    return x * 2 if torch.is_autocast_enabled() else x


def reads_dtype(self, x):
    return x.to(torch.get_default_dtype())


def reads_time(self, x):
    return x * time.time()


def reads_date(self, x):
    return x * datetime.datetime.now().second


def prints(self, x):
    print("x", end="")
    return x


def seeds(self, x):
    torch.manual_seed(1)
    return F.dropout(x)


def counts(self, x):
    self.counter += 1
    return x


def keeps(self, x):
    self.last = x
    return x


def appends(self, x):
    self.history.append(x)
    return x


def sets_item(self, x):
    self.options["deep"]["k"].append(3)
    return x


def changes_object(self, x):
    self.meter.count += 1
    return x


def bypasses_setattr(self, x):
    self.__dict__["counter"] = 5
    return x


def changes_class(self, x):
    type(self).calls = getattr(type(self), "calls", 0) + 1
    return x


def changes_global(self, x):
    global FLAG
    FLAG += 1
    return x


def appends_to_global(self, x):
    COUNTS.append(1)
    return x


def rebinds_buffer(self, x):
    self.seen = self.seen * 0.9 + x.mean()
    return x


def updates_attribute_tensor(self, x):
    self.scale.add_(1)
    return x * self.scale


def reads_attribute_shape(self, x):
    return x * self.scale.shape[0]


def branches(self, x):
    return x if x.sum() > 0 else -x


def loops(self, x):
    return sum(row for row in x)


def converts(self, x):
    return x * int(x.sum())


def measures(self, x):
    return x * len(x)


def ranges(self, x):
    return [x[i] for i in range(x.shape[0])]


def sets_attribute_of_tensor(self, x):
    x.flag = True
    return x


def asks_attribute_of_tensor(self, x):
    return x if hasattr(x, "mask") else -x


def asks_gradient_function(self, x):
    return x if x.grad_fn is None else -x


def asks_type(self, x):
    return x if type(x) is torch.Tensor else -x


def copies(self, x):
    return copy.deepcopy(x) + x


def swallows(self, x):
    try:
        return x * len(x)
    except Exception:
        return x


def swallows_all(self, x):
    try:
        return x * len(x)
    except:  # noqa: E722
        return x


def unregistered(self, x):
    return self.plain[0](x)


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


def second_of_attention(self, x):
    attention = nn.MultiheadAttention(4, 1)
    self._modules["attention"] = attention
    return x


def numpy_math(self, x):
    return x + np.sqrt(x)


def converts_to_numpy(self, x):
    return torch.from_numpy(x.detach().numpy())


LOSSES = [
    (no_grad, "no_grad"),
    (no_grad_decorated, "no_grad"),
    (enable_grad, "enable_grad"),
    (set_grad_enabled, "set_grad_enabled"),
    (set_grad_in_c, "grad mode"),
    (inference_mode, "inference_mode"),
    (autocast, "autocast"),
    (saved_hooks, "saved_tensors_hooks"),
    (save_on_cpu, "saved_tensors_hooks"),
    (checkpointed, "checkpoint"),
    (custom_function, "autograd.Function"),
    (torch_random, "randn"),
    (zeros_constant, "zeros"),
    (new_parameter, "ones"),
    (global_tensor, "outside of the modules"),
    (python_random, "random numbers"),
    (python_randint, "random numbers"),
    (numpy_random, "numpy's random"),
    (numpy_generator, "numpy's random"),
    (reads_grad_mode, "is_grad_enabled"),
    (reads_autocast, "is_autocast_enabled"),
    (reads_dtype, "get_default_dtype"),
    (reads_time, "time.time"),
    (reads_date, "clock"),
    (prints, "print"),
    (seeds, "seeds"),
    (counts, "'counter'"),
    (keeps, "'last'"),
    (appends, "'history'"),
    (sets_item, "'k'"),
    (changes_object, "'count'"),
    (bypasses_setattr, "'counter'"),
    (changes_class, "type()|class"),
    (changes_global, "'FLAG'"),
    (appends_to_global, "'COUNTS'"),
    (rebinds_buffer, "'seen'"),
    (updates_attribute_tensor, "add_"),
    (reads_attribute_shape, "shape"),
    (branches, "known only at run time"),
    (loops, "iterates"),
    (converts, "int of a value"),
    (measures, "len of a value"),
    (ranges, "cannot be traced"),
    (sets_attribute_of_tensor, "'flag'"),
    (asks_attribute_of_tensor, "'mask'"),
    (asks_gradient_function, "'grad_fn'"),
    (asks_type, r"type\(\)"),
    (copies, "copies"),
    (swallows, "len of a value"),
    (swallows_all, "len of a value"),
    (unregistered, "not among its submodules"),
    (numpy_math, "numpy"),
    (converts_to_numpy, "from_numpy|cannot be traced"),
]

# The child that is called has no trace of its own, and its parent cannot be traced around it.
LOSSES_AROUND_A_BOUNDARY = [
    (none_of_boundary, "None"),
    (none_in_helper, "None"),
    (type_of_boundary, "isinstance"),
    (attribute_of_boundary, "'loss'"),
]


def module_with(forward):
    torch.manual_seed(0)
    return type("Part", (Base,), {"forward": forward})()


def state_of(module):
    """All that a lossy trace could have changed."""
    plain = {k: v for k, v in module.__dict__.items() if not k.startswith("_")}
    return copy.deepcopy(
        (
            {k: v.clone() for k, v in module.state_dict().items()},
            plain,
            vars(module.meter),
            [sorted(m.__dict__) for m in module.modules()],
            FLAG,
            COUNTS,
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
        capture(module_with(no_grad), ArgPattern.of((X,), {}))
    file, line = caught.value.location.rsplit(":", 1)
    assert file == __file__
    assert int(line) == no_grad.__code__.co_firstlineno + 1
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
    def callback(phase, info):
        global FLAG
        FLAG += 1

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
    for _ in range(10):
        capture(root, ArgPattern.of((X,), {}))
    stop.set()
    thread.join()
    assert not errors
