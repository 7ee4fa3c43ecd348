"""Models whose activations keep a mask of their input: when the plan says so, and what it saves."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from _bits import values
from _exact import LOSSES, assert_exact, assert_saves_no_more, kept
from _norms import fate
from _twins import Twins, operators, saved_bytes
from torch import nn

import fxpass
from fxpass.plan import Recipe

MASK = 1 / 32
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ACTIVATIONS = {
    "relu6": nn.ReLU6(),
    "relu6_": nn.ReLU6(inplace=True),
    "hardtanh": nn.Hardtanh(-0.5, 1.5),
    "hardtanh_": nn.Hardtanh(-0.5, 1.5, inplace=True),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardsigmoid_": nn.Hardsigmoid(inplace=True),
    "leaky_relu": nn.LeakyReLU(0.2),
    "threshold": nn.Threshold(0.3, -1.0),
    "hardshrink": nn.Hardshrink(0.3),
    "softshrink": nn.Softshrink(0.3),
}
# In place, eager keeps the result of these.
KEEP_THE_RESULT = {
    "leaky_relu_": nn.LeakyReLU(0.2, inplace=True),
    "threshold_": nn.Threshold(0.3, -1.0, inplace=True),
}


class Net(nn.Module):
    """A convolution, `act`, and what `tail(self, y, x)` does with result and input of `act`."""

    def __init__(self, act, tail, channels=4):
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, 1, 1)
        self.pool, self.drop = nn.AvgPool2d(2), nn.Dropout(0.3)
        self.act, self.tail = copy.deepcopy(act), tail

    def forward(self, x):
        y = self.first(x)
        return self.tail(self, self.act(y), y)


def average(m, y, x):
    return m.pool(y)


def convolve(m, y, x):
    return m.second(y)


def net(name, tail, **arguments):
    return Net((ACTIVATIONS | KEEP_THE_RESULT)[name], tail, **arguments)


# ---- exact -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_in_front_of_a_pool(name, dtype, layout):
    for kind, loss in (("normal", "sum"), ("edges", "weighted"), ("specials", "means")):
        x = values((2, 4, 6, 8), dtype, kind, layout).requires_grad_()
        compiled = assert_exact(
            net(name, average).to(dtype), x, steps=2, loss_fn=LOSSES[loss], note=kind
        )
    op = "activation_" if name.endswith("_") else "activation"
    assert operators(compiled) == ["conv2d", op, "avg_pool2d"]


@pytest.mark.parametrize("name", [*ACTIVATIONS, *KEEP_THE_RESULT])
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_front_of_a_convolution(name, dtype):
    for layout in ("contiguous", "channels_last"):
        x = values((2, 4, 5, 7), dtype, "edges", layout).requires_grad_()
        assert_exact(net(name, convolve).to(dtype), x, steps=2, note=layout)


TAILS = {
    "two masks": lambda m, y, x: m.pool(y) + m.pool(F.hardtanh(x, 0.1, 0.2)),
    "read again": lambda m, y, x: m.pool(y + x),
    "written": lambda m, y, x: m.pool(y.add_(1)),
    "input written": lambda m, y, x: (m.pool(y), x.add_(1))[0],
    "saved too": lambda m, y, x: m.pool(y) + m.second(x)[..., :1, :1],
    "returned": lambda m, y, x: (m.pool(y), x),
    "in two": lambda m, y, x: m.second(y) + m.pool(y).mean(),
    "max pool": lambda m, y, x: m.second(F.max_pool2d(y, 2)),
    "again": lambda m, y, x: m.pool(m.act(y * 2)),
    "dropout": lambda m, y, x: m.pool(F.relu6(m.drop(y))),
    "piece": lambda m, y, x: m.pool(F.relu6(x[:, 1:])) + m.pool(y).mean(),
    "chunks": lambda m, y, x: m.pool(F.leaky_relu(x.chunk(2, 1)[1]).flatten(1, 2)),
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("name", [*ACTIVATIONS, *KEEP_THE_RESULT])
def test_what_else_may_read_input_and_result(name, tail):
    x = values((2, 4, 6, 8), kind="edges").requires_grad_()
    model = net(name, TAILS[tail])
    compiled = assert_exact(model, x, steps=2, may_raise=True)
    assert_saves_no_more(model, compiled, x)
    assert_exact(model.eval(), x, steps=2, may_raise=True, compiled=compiled)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_write_before_backward_raises_as_in_eager(name):
    seen = []
    writes = {
        "nothing": lambda m, x, out: None,
        "what it read": lambda m, x, out: seen[-2].mul_(2),
        "what it gave": lambda m, x, out: seen[-1].mul_(2),
    }
    tails = {"pool": average, "sum": lambda m, y, x: y + 1}  # a pool keeps what it reads
    for (tail, made), (write, function) in product(tails.items(), writes.items()):
        torch.manual_seed(0)
        model = net(name, made)
        model.second = nn.Identity()  # all parameters have gradients
        model.act.register_forward_hook(lambda m, args, y: seen.extend([args[0], y]))
        both = (copy.deepcopy(model), fxpass.compile(model))
        fates = [fate(m, values((2, 4, 6, 8)), function) for m in both]
        assert fates[0] == fates[1], (tail, write)
        if tail == "sum":
            assert (fates[0] == "raises") is (write == "what it read" and not name.endswith("_"))


def test_hooks_see_and_may_replace_values():
    def double(module, args):
        return (args[0] * 2,)

    for name in ACTIVATIONS:
        twins = Twins(lambda name=name: net(name, average))
        twins.step(values((2, 4, 6, 8)))
        twins.each(lambda m: m.act.register_forward_pre_hook(double))
        twins.each(lambda m: m.act.register_forward_hook(lambda m, args, y: y + 1))
        twins.step(values((2, 4, 6, 8)))


def test_arguments_changed_after_compile():
    changes = {"hardtanh": ("max_val", 0.2), "leaky_relu": ("negative_slope", 3.0)}
    changes |= {"softshrink": ("lambd", 0.9), "threshold": ("threshold", -0.4)}
    for name, (attribute, value) in changes.items():
        twins = Twins(lambda name=name: net(name, average))
        twins.step(values((2, 4, 6, 8)))
        twins.each(lambda m, a=attribute, v=value: setattr(m.act, a, v))
        twins.step(values((2, 4, 6, 8)))


def test_bounds_in_the_wrong_order_are_eagers_error():
    x = values((2, 4, 6, 8)).requires_grad_()
    model = Net(nn.Identity(), lambda m, y, x: m.pool(F.hardtanh(y * 1, 2.0, 1.0)))
    for either in (model, fxpass.compile(model)):
        with pytest.raises(ValueError, match="min_val cannot be greater than max_val"):
            either(x)


# ---- what is kept ------------------------------------------------------------------------------


def saved(name, tail, x, **arguments):
    """Saved elements for each of x, of eager and compiled; x itself and the output aside."""
    model = net(name, tail, channels=x.shape[1], **arguments)
    output = model(x).numel() / x.numel()
    return tuple(pytest.approx(k - output, abs=0.011) for k in kept(model, x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_in_front_of_a_pool_a_mask_is_all_that_is_kept(name):
    # Eager keeps the input twice: the pool too keeps what it reads.
    x = values((8, 16, 32, 32))
    assert saved(name, average, x) == (2, MASK)


def test_to_the_byte():
    x = values((2, 4, 10, 10)).requires_grad_()
    out = 2 * 4 * 5 * 5 * 4
    assert saved_bytes(fxpass.compile(net("leaky_relu", average)), x) == out + 13 * 8
    y = F.relu6(x * 1)
    model = net("relu6", convolve)
    with torch.no_grad():
        model.first.weight.copy_(torch.eye(4).view(4, 4, 1, 1))
        model.first.bias.zero_()
    nonzero = int((y != 0).sum())
    kept_of_both = 13 * 8 + 13 * 8 + nonzero * 4
    assert saved_bytes(fxpass.compile(model), x) == kept_of_both + 2 * 100 * 4


def test_in_front_of_a_convolution_the_cheaper_one_is_kept():
    x = values((8, 16, 32, 32))
    for name in ("leaky_relu", "threshold", "hardtanh", "hardsigmoid", "softshrink"):
        assert saved(name, convolve, x) == (2, 1)  # the input, of which the result is made
    for name in ("hardtanh_", "hardsigmoid_"):
        assert saved(name, convolve, x) == (2, 1 + MASK)
    for name in ("relu6", "relu6_"):
        _, ours = kept(net(name, convolve, channels=16), x)
        assert ours < 0.85


def test_no_mask_where_the_input_is_there_anyway():
    for tail in ("saved too", "returned", "piece"):
        compiled = fxpass.compile(net("leaky_relu", TAILS[tail]))
        assert "activation" not in operators(compiled.train()), tail
    x = values((2, 4, 6, 8)).requires_grad_()
    model = nn.Sequential(nn.ReLU6(), nn.AvgPool2d(2))
    assert_saves_no_more(model, fxpass.compile(model), x)
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Softshrink(), nn.AvgPool2d(2))
    assert fxpass.compile(model).plan.recipe("_0") is Recipe.AFFINE


@pytest.mark.parametrize(
    ("layers", "recipes"),
    [
        ([nn.ReLU6(), nn.Conv2d(4, 4, 1)], "mask bitmap"),
        ([nn.Hardtanh(0, 1), nn.Conv2d(4, 4, 1)], "mask bitmap"),
        ([nn.Hardtanh(-1, 1), nn.Conv2d(4, 4, 1)], "dense re-run"),
        ([nn.LeakyReLU(), nn.Conv2d(4, 4, 1)], "dense re-run"),
        ([nn.LeakyReLU(), nn.AvgPool2d(2)], "mask nothing"),
        ([nn.LeakyReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)], "mask nothing dense"),
        ([nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)], "mask nothing bitmap"),
        ([nn.ReLU6(), nn.ReLU6(), nn.Conv2d(4, 4, 1)], "mask bitmap re-run"),
        ([nn.ReLU(), nn.Hardtanh(), nn.AvgPool2d(2)], "mask nothing"),
        ([nn.SiLU(), nn.Hardtanh(), nn.AvgPool2d(2)], "dense re-run nothing"),
        ([nn.Dropout(), nn.LeakyReLU(), nn.AvgPool2d(2)], "nothing mask nothing"),
        ([nn.Flatten(), nn.LeakyReLU(), nn.Linear(4, 4)], "dense re-run"),
    ],
)
def test_the_recipes(layers, recipes):
    plan = fxpass.compile(nn.Sequential(nn.Conv2d(4, 4, 1), *layers)).plan
    assert [str(choice.recipe) for choice in plan][1:] == recipes.split()


def test_what_the_caller_gets_is_kept_for_the_result_too():
    compiled = fxpass.compile(net("leaky_relu", lambda m, y, x: (m.second(y), x)))
    assert compiled.plan.recipe("act") is Recipe.RERUN


def test_a_frozen_convolution_keeps_the_mask_alone():
    x = values((8, 16, 32, 32)).requires_grad_()
    model = net("relu6", convolve, channels=16)
    model.second.requires_grad_(False)
    compiled = assert_exact(model, x, steps=1)
    out = 8 * 32 * 32 * 4
    assert saved_bytes(compiled, x) == out + x.numel() // 8


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept(mode):
    x = values((2, 4, 16, 16))
    for name in ACTIVATIONS:
        compiled = fxpass.compile(net(name, average))
        with mode():
            compiled(x)
            with fxpass.memory.track() as memory:
                out = compiled(x)
                assert memory.live_bytes == out.nbytes
            del out
