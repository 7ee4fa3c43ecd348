"""fxpass.verify and its oracle: every kind of difference is seen, and nothing is left changed."""

import copy
import importlib
import itertools
import operator
import random
import re

import pytest
import torch
from torch import nn

import fxpass
from fxpass import MismatchError
from fxpass._oracle import Loop, compare, record

# The name fxpass.verify is the function.
verify_module = importlib.import_module("fxpass.verify")
X = torch.arange(-6.0, 6.0).view(2, 6)


class Model(nn.Module):
    """A linear layer, a buffer and some randomness; `change` is what a wrong twin does."""

    def __init__(self, change=lambda model, x, y: y):
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("calls", torch.zeros(1))
        self.scale = 1.0
        self.change = change
        torch.manual_seed(0)  # making a layer moves the RNG
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view(parameter.shape))

    def forward(self, x):
        self.calls += 1
        self.scale += 1.0
        y = nn.functional.dropout(self.linear(x), 0.5).relu() * self.scale
        return {"y": self.change(self, x, y), "n": 3}


class NegativeZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return torch.where(y == 0, -0.0, y)

    @staticmethod
    def backward(ctx, grad):
        return grad


class Restrided(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.t().contiguous().t()

    @staticmethod
    def backward(ctx, grad):
        return grad


class LastGradient(torch.autograd.Function):
    """Changes the gradient by its last bit."""

    @staticmethod
    def forward(ctx, y):
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone().contiguous()
        return grad.view(torch.int32).bitwise_xor(1).view(torch.float32)


def differences(change, x=X, steps=2, **loop):
    loop = Loop(steps, **loop)
    inputs = (x,)
    return compare(record(Model(), inputs, loop), record(Model(change), inputs, loop))


def kinds(found):
    return list(dict.fromkeys(difference.key.kind for difference in found))


def test_equal_models_are_equal():
    assert differences(lambda m, x, y: y, input_grads=True) == []


def test_signs_of_zero_are_seen():
    found = differences(lambda m, x, y: NegativeZero.apply(y))
    assert kinds(found) == ["output"]  # and neither loss nor gradients
    assert "0x00000000 against 0x80000000" in found[0].how


def test_nan_payloads_are_seen():
    def with_payload(bits):
        return torch.tensor([bits], dtype=torch.int32).view(torch.float32)

    a, b = (record(lambda x: x, (with_payload(n),), Loop(1)) for n in (0x7FC00001, 0x7FC00002))
    assert "output" in kinds(compare(a, b))
    assert compare(a, a) == []


def test_strides_are_seen():
    found = differences(lambda m, x, y: Restrided.apply(y), input_grads=True)
    assert found[0].how == "strides (4, 1) against (1, 2)"


def test_the_dtype_is_seen():
    found = differences(lambda m, x, y: y.double())
    assert "torch.float32 against torch.float64" in found[0].how


def test_whether_an_output_requires_grad_is_seen():
    found = differences(lambda m, x, y: y.detach())
    assert found[0].how == "requires_grad True against False"
    assert any(d.key.kind == "gradient" and d.how == "is not there" for d in found)


def test_one_bit_of_a_gradient_is_seen_in_all_that_follows():
    found = differences(lambda m, x, y: LastGradient.apply(y), input_grads=True)
    assert found[0].key.kind == "gradient"
    assert kinds(found)[:3] == ["gradient", "input gradient", "parameter"]
    assert {d.key.name for d in found if d.key.kind == "gradient" and d.key.step == 0} == {
        "linear.weight",
        "linear.bias",
    }


def test_a_gradient_of_zeros_is_not_none():
    def touches_the_unused(m, x, y):
        return y + 0.0 * m.unused(x[:, :2]).sum()

    found = differences(touches_the_unused)
    assert any(d.key.name == "unused.weight" and "against a tensor" in d.how for d in found)


def test_buffers_inputs_and_rng_are_seen():
    assert kinds(differences(lambda m, x, y: (m.calls.add_(1), y)[1])) == ["buffer"]
    assert "RNG state" in kinds(differences(lambda m, x, y: (torch.rand(1), y)[1], steps=1))
    changed = differences(lambda m, x, y: (x.data.add_(1), y)[1], steps=1)
    assert "input afterwards" in kinds(changed)


def test_another_structure_is_seen():
    assert "output" in kinds(differences(lambda m, x, y: (y, y)))


def test_another_error_is_seen():
    def fails(m, x, y):
        raise KeyError("here")

    found = differences(fails)
    assert "raised nothing, then raised KeyError in the forward of step 1" in found[-1].how
    with_error = record(Model(fails), (X,), Loop(2))
    assert compare(with_error, with_error) == []


def test_gradients_come_in_the_order_of_backward():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    keys = [k.name for k in record(model, (X,), Loop(1)).values if k.kind == "gradient"]
    assert set(keys[:2]) == {"2.weight", "2.bias"}
    assert set(keys[2:]) == {"0.weight", "0.bias"}


def state_of(model, inputs):
    tensors = [*model.parameters(), *model.buffers(), *inputs]
    grads = [p.grad for p in model.parameters()]
    copies = [None if t is None else t.detach().clone() for t in tensors + grads]
    rng = torch.get_rng_state().tolist(), random.getstate()
    return copies, [id(t) for t in grads], rng, model.training, getattr(model, "scale", None)


def same_state(a, b):
    tensors = all(x is y is None or torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True))
    return tensors and a[1:] == b[1:]


@pytest.mark.parametrize("kind", ["fine", "changes its input", "switches to eval", "raises"])
def test_every_state_is_left_as_found(kind):
    def change(m, x, y):
        random.random()
        if kind == "changes its input":
            x.data.add_(1)
        if kind == "switches to eval":
            m.eval()
        if kind == "raises":
            m.calls = m.calls + 1
            raise KeyError
        return y

    model = Model(change)
    for parameter in model.linear.parameters():
        parameter.grad = torch.rand_like(parameter)
    model.unused.requires_grad_(False)
    inputs = (X.clone().requires_grad_(),)
    inputs[0].grad = torch.ones_like(X)
    before = state_of(model, inputs)
    record(model, inputs, Loop(2, input_grads=False))
    assert same_state(before, state_of(model, inputs))
    assert torch.equal(inputs[0].grad, torch.ones_like(X))
    assert inputs[0].requires_grad


def test_gradients_of_an_earlier_step_do_not_count():
    def gradients(model):
        values = record(model, (X,), Loop(1, lambda output: output["y"].sum())).values
        return {key: value for key, value in values.items() if key.kind == "gradient"}

    clean, stale = Model(), Model()
    stale.linear.weight.grad = torch.ones_like(stale.linear.weight)
    wanted, found = gradients(clean), gradients(stale)
    assert [v for v in wanted.values() if isinstance(v, str)] == ["None"] * 2  # `unused`
    assert all(str(wanted[key]) == str(found[key]) for key in wanted)


def test_tied_and_sliced_parameters_are_left_as_found():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    both = torch.randn(2, 6)
    model[0].bias, model[1].bias = nn.Parameter(both[0]), nn.Parameter(both[1])
    before = copy.deepcopy(model.state_dict())
    record(model, (X,), Loop(2))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model[1].weight is model[0].weight


def compiled_is(monkeypatch, twin):
    monkeypatch.setattr(verify_module, "_pair", lambda model, inputs: (model, twin))


def test_verify_names_what_came_first_and_everything_else(monkeypatch):
    compiled_is(monkeypatch, Model(lambda m, x, y: LastGradient.apply(y)))
    with pytest.raises(MismatchError) as caught:
        fxpass.verify(Model(), X, loss_fn=lambda output: output["y"].sum())
    lines = str(caught.value).splitlines()
    assert "the compiled model differs from the original in" in lines[0]
    first = r"  gradient linear\.\w+ \(step 1\) of Linear: \d+ of \d+ elements differ, at \[.*0x"
    assert re.match(first, lines[1])
    assert {line.split()[1] for line in lines[1:3]} == {"linear.bias", "linear.weight"}
    assert any(re.match(r"  parameter linear\.\w+ \(step \d\) of Linear", line) for line in lines)


def test_verify_shows_the_elements_of_large_tensors(monkeypatch):
    class Large(nn.Module):
        def __init__(self, at=None):
            super().__init__()
            self.at = at

        def forward(self, x):
            y = x * 2
            if self.at is not None:
                y[self.at] += 1
            return y

    compiled_is(monkeypatch, Large(at=300_000))
    with pytest.raises(MismatchError, match=r"1 of 400000 elements differ, at \[300000\] 0x"):
        fxpass.verify(Large(), torch.zeros(400_000))


def test_verify_says_when_the_model_does_not_equal_itself(monkeypatch):
    class Counter(nn.Module):
        calls = [0.0]  # noqa: RUF012 - what is shared by all instances is not restored

        def forward(self, x):
            self.calls[0] += 1
            return x * self.calls[0]

    compiled_is(monkeypatch, Counter())
    with pytest.raises(MismatchError, match="nothing is proven: the unmodified model"):
        fxpass.verify(Counter(), X)


def test_each_recording_finds_other_bits_in_free_memory():
    # What a kernel reads that nobody wrote must not be the same twice.
    found = []

    def reads(x):
        blocks = [torch.empty(1 << k, dtype=torch.int32) for k in range(4, 17) for _ in range(4)]
        found.append(tuple(block[-1].item() for block in blocks))
        for block in blocks:
            block.fill_(7)
        return x * 2

    for _ in range(4):
        record(reads, (torch.zeros(3),), Loop(1))
    for before, after in itertools.pairwise(found):
        assert sum(map(operator.ne, before, after)) > len(before) / 2


def test_verify_lets_the_models_own_error_through(monkeypatch):
    compiled_is(monkeypatch, Model())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fxpass.verify(Model(), torch.zeros(2, 5))


def test_verify_checks_its_arguments():
    with pytest.raises(TypeError, match=r"nn\.Module, got builtins\.function"):
        fxpass.verify(lambda x: x, X)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        fxpass.verify(Model(), X, steps=0)
    with pytest.raises(ValueError, match="no floating tensor"):
        fxpass.verify(nn.Identity(), torch.tensor([1]))
    lazy = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ValueError, match=r"'0\.weight' uninitialized: call the model"):
        fxpass.verify(lazy, X)
    lazy(X)
    assert fxpass.verify(lazy, X).gradients == 3


def test_the_report(monkeypatch):
    compiled_is(monkeypatch, Model())
    report = fxpass.verify(Model(), X)
    assert report.gradients == 3  # weight, bias and input; `unused` has none
    assert repr(report).startswith("gradients identical: 3 of 3 tensors")
    assert report.counts["parameter"] == 4


def test_verify_compiles_the_model_or_takes_a_compiled_one():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3))
    x = torch.randn(2, 1, 12, 12)
    assert fxpass.verify(model, x).gradients == 5
    compiled = fxpass.compile(model)
    assert fxpass.verify(compiled, x).gradients == 5
