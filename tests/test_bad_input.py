"""Bad input: each a clear error, or an exact fallback."""

import pytest
import torch
import torch.nn.functional as F
from _twins import Net, Twins, X, assert_same, bits, is_compiled
from torch import nn

import fxpass

OPS = torch.ops.fxpass


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (torch.relu, "builtins.builtin_function_or_method"),
        (lambda x: x, "builtins.function"),
        (None, "builtins.NoneType"),
        (Net, "builtins.type"),
        (X, "torch.Tensor"),
    ],
)
def test_a_model_that_is_no_module(model, name):
    with pytest.raises(TypeError, match=rf"expected model to be a torch.nn.Module, got {name}; "):
        fxpass.compile(model)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m.eval(), X)])
def test_a_torchscript_model(make):
    with pytest.raises(TypeError, match="got a TorchScript module; compile the model before"):
        fxpass.compile(make(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_part_is_left_as_it_is():
    def make():
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), scripted, nn.Conv2d(8, 2, 1))

    twins = Twins.__new__(Twins)
    for name in ("eager", "compiled"):
        torch.manual_seed(0)
        setattr(twins, name, make())
    twins.compiled = fxpass.compile(twins.compiled)
    twins.step()


def test_errors_of_the_model_are_eagers_errors():
    twins = Twins()
    for wrong in (X[:, :2], X.double(), X[0, 0], torch.ones(2, 3, 8, 8, dtype=torch.int64)):
        raised = []
        for model in (twins.eager, twins.compiled):
            with pytest.raises((RuntimeError, ValueError)) as error:
                model(wrong)
            raised.append(type(error.value))
        assert raised[0] is raised[1]
    for args in ((), (X, X)):
        for model in (twins.eager, twins.compiled):
            with pytest.raises(TypeError, match="forward"):
                model(*args)
    twins.step()


class Chain(nn.Module):
    """Runs in any dtype, with weights of that dtype or none."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.conv2(F.relu(self.conv1(x)))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_dtype_without_kernels_stays_dense_and_exact(dtype):
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8, dtype=dtype), nn.Conv2d(3, 2, 3, dtype=dtype)

        def forward(self, x):
            return torch.view_as_real(self.b(self.a(x))).square().sum()

    twins = Twins(Complex)
    for _ in range(2):
        twins.step(X.to(dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_relu_of_a_dtype_without_kernels(dtype):
    x = torch.tensor([-1.0, 0.0, 2.0]).to(dtype)
    assert_same(bits([torch.relu(x)]), bits([OPS.relu(x)[0]]))


@pytest.mark.parametrize(
    ("dtype", "error", "message"),
    [
        (torch.float8_e4m3fn, NotImplementedError, "not implemented for 'Float8_e4m3fn'"),
        (torch.bool, RuntimeError, "Boolean inputs not supported"),
    ],
)
def test_relu_of_a_dtype_that_eager_refuses(dtype, error, message):
    x = torch.tensor([-1.0, 0.0, 2.0]).to(dtype)
    for relu in (torch.relu, OPS.relu):
        with pytest.raises(error, match=message) as raised:
            relu(x)
        assert raised.type is error


def test_the_meta_device():
    compiled = fxpass.compile(Chain().to("meta"))
    y = compiled(torch.empty(2, 3, 8, 8, device="meta"))
    assert (y.device.type, y.shape) == ("meta", (2, 4, 4, 4))
    y.sum().backward()
    assert compiled.conv1.weight.grad.shape == compiled.conv1.weight.shape


def test_a_tensor_subclass_stays_dense():
    class Tagged(torch.Tensor):
        pass

    twins = Twins(Chain)
    results = []
    for model in (twins.eager, twins.compiled):
        y = model(X.clone().as_subclass(Tagged))
        y.sum().backward()
        results.append((y, [p.grad for p in model.parameters()]))
    assert type(results[0][0]) is type(results[1][0])
    assert_same(*(bits([y.as_subclass(torch.Tensor), grads]) for y, grads in results))


# ---- handles -------------------------------------------------------------------------------------


def conv_with(handle, y, weight):
    return OPS.conv2d(y, handle, weight, None, [1, 1], [0, 0], [1, 1], 1)


def test_a_foreign_handle_is_not_used():
    weight = torch.ones(2, 3, 3, 3, requires_grad=True)
    y, _ = OPS.relu(X.clone().requires_grad_())
    _, foreign = OPS.relu((X + 1).requires_grad_())
    conv_with(foreign, y, weight).sum().backward()
    found, weight.grad = weight.grad, None
    torch.conv2d(y.detach(), weight).sum().backward()
    assert_same(bits([weight.grad]), bits([found]))


def test_a_handle_of_an_older_version_is_not_used():
    weight = torch.ones(2, 3, 3, 3, requires_grad=True)
    y, stale = OPS.relu(X.clone())
    y.add_(1)
    assert not stale.matches(y)
    conv_with(stale, y, weight).sum().backward()
    found, weight.grad = weight.grad, None
    torch.conv2d(y, weight).sum().backward()
    assert_same(bits([weight.grad]), bits([found]))


def test_something_else_in_place_of_a_handle():
    weight = torch.ones(2, 3, 3, 3, requires_grad=True)
    for wrong in (X, 3, "handle", torch.classes.fxpass.Saved):
        with pytest.raises((RuntimeError, TypeError)):
            conv_with(wrong, X, weight)


def test_what_is_not_compiled_says_so():
    assert not is_compiled(torch.relu(X.clone().requires_grad_()))
    assert is_compiled(fxpass.compile(Chain())(X))
