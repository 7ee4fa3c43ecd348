"""How a compiled module can be called: arguments and results of any form, transforms, modes."""

import os
import time
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from _threads import torch_threads
from _twins import Net, Twins, X, assert_same, bits, is_compiled, operators
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import fxpass

Pair = namedtuple("Pair", ["a", "b"])


@dataclass
class Output:
    logits: Tensor
    features: Tensor | None = None


class Flexible(nn.Module):
    """Takes and returns whatever `forward(self, ...)` does."""

    def __init__(self, forward):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.call = forward

    def body(self, x):
        return self.conv2(F.relu(self.conv1(x)))

    def forward(self, *args, **kwargs):
        return self.call(self, *args, **kwargs)


def scaled(m, x, scale=1.0, bias=None, *, flag=False):
    y = m.body(x) * scale
    if bias is not None:
        y = y + bias
    return -y if flag else y


def loss_of(output):
    if isinstance(output, Output):
        output = [output.logits, output.features]
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return sum(loss_of(o) for o in output if o is not None)
    return output.sum()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((2.0,), {}),
        ((), {"scale": 2.0}),
        ((), {"bias": torch.ones(4, 1, 1)}),
        ((1.5, torch.ones(4, 1, 1)), {"flag": True}),
        ((1.5, None), {"flag": True}),
        ((3,), {"flag": False}),
    ],
)
def test_keyword_and_optional_arguments(args, kwargs):
    twins = Twins(lambda: Flexible(scaled))
    for _ in range(2):
        twins.step(X, *args, **kwargs)
    assert operators(twins.compiled) == ["conv2d", "relu", "conv2d"]


def test_one_program_for_each_form_of_call():
    twins = Twins(lambda: Flexible(scaled))
    for _ in range(3):
        for scale in (1.0, 2.0):
            for kwargs in ({}, {"flag": True}, {"bias": None}, {"bias": torch.ones(1)}):
                twins.step(X, scale, **kwargs)
    assert len(twins.compiled._fxpass_unit._made) == 8


def test_the_input_by_keyword():
    twins = Twins(lambda: Flexible(lambda m, x: m.body(x)))
    outputs = [model(x=X) for model in (twins.eager, twins.compiled)]
    assert_same(bits(outputs[0]), bits(outputs[1]))
    for output in outputs:
        output.sum().backward()
    assert_same(*(bits([p.grad for p in m.parameters()]) for m in (twins.eager, twins.compiled)))


def nested(m, batch):
    x, (y, rest) = batch["x"], batch["more"]
    return m.body(x) + m.body(y) * rest[0]


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_nested_inputs(kind):
    twins = Twins(lambda: Flexible(nested))
    seen = []
    for model in (twins.eager, twins.compiled):
        batch = kind(x=X, more=(X * 2, [torch.ones(1), None]))
        output = model(batch)
        output.sum().backward()
        seen.append(bits([output, [p.grad for p in model.parameters()]]))
    assert_same(*seen)


def test_arguments_that_no_trace_can_take():
    class Anything:
        factor = 2

    twins = Twins(lambda: Flexible(lambda m, x, other: m.body(x) * other.factor))
    twins.step(X, Anything())


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: {"y": m.body(x), "z": [m.conv1(x)]},
        lambda m, x: (m.body(x), None, (m.conv1(x), 3)),
        lambda m, x: [m.body(x)],
        lambda m, x: Pair(m.body(x), m.conv1(x)),
        lambda m, x: OrderedDict(out=m.body(x), aux=x),
        lambda m, x: Output(m.body(x)),
        lambda m, x: Output(logits=m.body(x), features=m.conv1(x)),
    ],
    ids=["dict", "tuple", "list", "namedtuple", "OrderedDict", "dataclass", "dataclass of two"],
)
def test_outputs_of_every_form(forward):
    def floats(output):
        return loss_of(output if isinstance(output, Output) else flat(output))

    def flat(output):
        if isinstance(output, dict):
            output = list(output.values())
        if isinstance(output, (list, tuple)):
            return [leaf for item in output for leaf in flat(item)]
        return [output] if isinstance(output, Tensor) else []

    twins = Twins(lambda: Flexible(forward))
    for _ in range(2):
        twins.step(X, loss_fn=floats)
    assert type(twins.compiled(X)) is type(twins.eager(X))


# ---- transforms --------------------------------------------------------------------------------


def in_eval(make=Net):
    twins = Twins(make)
    twins.each(lambda m: m.eval())
    return twins


@torch_threads(1)
def same(use, twins):
    assert_same(*(bits(use(model)) for model in (twins.eager, twins.compiled)))


def test_functional_call():
    def use(model):
        torch.manual_seed(0)
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        state = {n: t.detach() * 2 if t.is_floating_point() else t for n, t in state.items()}
        weights = {n: t.requires_grad_() for n, t in state.items() if n.endswith("weight")}
        output = torch.func.functional_call(model, state, (X,))
        grads = torch.autograd.grad(output.sum(), list(weights.values()))
        return output, grads, dict(model.state_dict())

    twins = Twins()
    same(use, twins)
    assert operators(twins.compiled)[0] == "conv2d"
    twins.step()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_func_grad_vmap_jvp_jacrev():
    def loss(model, state, x):
        return torch.func.functional_call(model, state, (x,)).square().sum()

    def state_of(model):
        return {n: p.detach() for n, p in model.named_parameters()}

    def grad(model):
        return torch.func.grad(lambda s: loss(model, s, X))(state_of(model))

    def per_sample(model):
        one = torch.func.grad(lambda s, x: loss(model, s, x[None]))
        return torch.func.vmap(one, in_dims=(None, 0))(state_of(model), X)

    twins = in_eval()
    same(grad, twins)
    same(per_sample, twins)
    same(lambda m: torch.func.vmap(m)(torch.stack([X, X * 2])), twins)
    same(lambda m: torch.func.jvp(m, (X,), (torch.ones_like(X),)), twins)
    same(lambda m: torch.func.jacrev(m)(X), twins)
    twins.step()


# Python's own decompositions for forward mode are scripted when they are first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_forward_mode():
    def use(model):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
            primal, tangent = torch.autograd.forward_ad.unpack_dual(model(dual))
            assert tangent is not None
            return primal, tangent

    same(use, in_eval())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    def use(model):
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            output = model(X)
        output.float().sum().backward()
        return output, [p.grad for p in model.parameters()], dict(model.state_dict())

    twins = Twins()
    same(use, twins)
    twins.step()
    same(use, twins)


class Mixed(nn.Module):
    """Enters autocast and no_grad by itself."""

    def __init__(self):
        super().__init__()
        self.body, self.teacher = Net(), Net()

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.body(x)
        with torch.no_grad():
            target = self.teacher(x)
        return (y.float() - target).square()


def test_modes_that_the_model_enters_itself():
    with pytest.warns(UserWarning, match="enters torch.autocast"):
        twins = Twins(Mixed)
    for _ in range(3):
        twins.step()
    body = twins.compiled._fxpass_unit.child(twins.compiled.body)
    assert body.latest() is not None  # in a region that the model enters its parts are compiled


def test_outside_of_such_modes_the_parts_are_compiled():
    class Apart(Mixed):
        def forward(self, x):
            with torch.no_grad():
                target = self.teacher(x)
            return (self.body(x) - target).square()

    with pytest.warns(UserWarning, match=r"enters torch.no_grad"):
        twins = Twins(Apart)
    for _ in range(3):
        twins.step()
    assert is_compiled(twins.compiled(X))
    unit = twins.compiled._fxpass_unit
    assert unit.child(twins.compiled.body).latest() is not None
    assert unit.child(twins.compiled.teacher).latest() is None


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_jit_trace():
    twins = in_eval()
    traced = torch.jit.trace(twins.compiled, X)
    assert "fxpass" not in str(traced.inlined_graph)
    assert_same(bits([traced(X)]), bits([twins.eager(X)]))


def test_modes_that_see_every_call_see_the_models_own():
    def flops(model):
        with FlopCounterMode(display=False) as counter:
            model(X).sum().backward()
        return [counter.get_total_flops()]

    same(flops, Twins())


class Dispatched(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(getattr(function, "__name__", str(function)))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Dispatched, Called])
def test_a_mode_of_the_users_sees_what_it_sees_in_eager(mode):
    def calls(model):
        with mode() as seen:
            model(X)
        return seen.names

    twins = Twins()
    same(calls, twins)
    assert "relu" in " ".join(calls(twins.compiled))


def test_a_default_device_changes_nothing():
    with torch.device("cpu"):
        twins = Twins()
        for _ in range(2):
            twins.step()
        assert "batch_norm" in operators(twins.compiled)
        assert is_compiled(twins.compiled(X))


def test_under_a_fake_tensor_mode():
    with torch._subclasses.FakeTensorMode() as mode:
        compiled = fxpass.compile(Net())
        output = compiled(mode.from_tensor(X))
        output.sum().backward()
    assert output.shape == (2, 5)


def test_distributed_data_parallel(tmp_path):
    from torch import distributed

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        twins = Twins()
        parallel = Twins.__new__(Twins)
        parallel.eager = nn.parallel.DistributedDataParallel(twins.eager)
        parallel.compiled = nn.parallel.DistributedDataParallel(twins.compiled)
        for _ in range(2):
            parallel.step()
        assert "batch_norm" in operators(twins.compiled)
    finally:
        # torch joins gloo's thread with the GIL held, which that thread needs to end its last work.
        time.sleep(0.2)
        distributed.destroy_process_group()


def test_numbers_that_change_at_every_call_do_not_pile_up_programs():
    class Scaled(nn.Module):
        def forward(self, x, factor: int):
            return F.relu(x) * factor

    model = fxpass.compile(Scaled())
    x = torch.randn(3, requires_grad=True)
    for factor in range(200):
        assert model(x, factor).equal(F.relu(x) * factor)
    assert len(model._fxpass_unit._made) == 64
