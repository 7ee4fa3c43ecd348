"""Dropout and stochastic depth: the same random numbers, and their factors kept as bits."""

import pytest
import torch
import torch.nn.functional as F
from _bits import DTYPES, check, values
from _blocks import SHAPE, Dropped, SqueezeExcite, image, network
from _exact import assert_exact, assert_saves_no_more
from _rerun import ops
from _twins import all_operators, operators, saved_bytes
from torch import nn

import fxpass


class Drop(nn.Module):
    def __init__(self, drop, shape=SHAPE):
        super().__init__()
        kind = nn.Conv2d if len(shape) == 4 else nn.Conv3d if len(shape) == 5 else nn.Conv1d
        self.first, self.second = kind(shape[1], 6, 1), kind(6, 4, 1)
        self.drop = drop

    def forward(self, x):
        return self.second(self.drop(F.relu(self.first(x))))


DROPS = {
    nn.Dropout: (4, 8, 8, 8),
    nn.Dropout1d: (4, 8, 50),
    nn.Dropout2d: (64, 8, 8, 8),
    nn.Dropout3d: (64, 8, 3, 3, 3),
    nn.AlphaDropout: (4, 8, 8, 8),
    nn.FeatureAlphaDropout: (64, 8, 4, 4),
}


@pytest.mark.parametrize("kind", DROPS)
@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_of_every_kind(kind, p, inplace):
    for dtype in (torch.float32, torch.bfloat16):
        for training in (True, False):
            model = Drop(kind(p, inplace), DROPS[kind]).to(dtype).train(training)
            x = values(DROPS[kind], dtype).requires_grad_()
            # In place over a ReLU's result, eager raises in backward.
            compiled = assert_exact(model, x, steps=2, may_raise=inplace)
            assert "pack_noise" in all_operators(compiled)


FUNCTIONS = {
    "dropout": lambda m, x: F.dropout(x, 0.3, m.training),
    "dropout in place": lambda m, x: F.dropout(x * 2, 0.3, inplace=True),
    "dropout with p": lambda m, x: F.dropout(x, p=m.drop.p, training=True),
    "dropout1d": lambda m, x: F.dropout1d(x.flatten(2), 0.3).view_as(x),
    "dropout2d": lambda m, x: F.dropout2d(x, 0.3),
    "alpha_dropout": lambda m, x: F.alpha_dropout(x, 0.3, True),
    "feature_alpha_dropout": lambda m, x: F.feature_alpha_dropout(x, 0.3, True),
    "torch.dropout": lambda m, x: torch.dropout(x, 0.3, True),
    "two": lambda m, x: F.dropout(F.dropout(x, 0.3), 0.5),
    "of a sum": lambda m, x: F.dropout(x + x, 0.3) + x,
    "read twice": lambda m, x: (lambda y: y + y.relu())(F.dropout(x, 0.4)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dropout_functions(name):
    class Model(Drop):
        def forward(self, x):
            return self.second(FUNCTIONS[name](self, F.relu(self.first(x))))

    model, x = Model(nn.Dropout(0.2)), values((32, 8, 4, 4)).requires_grad_()
    assert_exact(model, x)
    assert_saves_no_more(model, fxpass.compile(model), x)


def test_the_noise_is_kept_as_bits():
    x = values((8, 16, 32, 32)).requires_grad_()
    for kind in (nn.Dropout, nn.AlphaDropout):
        model = nn.Sequential(nn.AvgPool2d(1), kind(0.4), nn.AvgPool2d(32))
        eager, ours = saved_bytes(model, x), saved_bytes(fxpass.compile(model), x)
        assert eager >= 2 * x.nbytes
        assert ours == pytest.approx(x.nbytes / 32, rel=0.1)


def test_the_random_stream_goes_on_as_in_eager():
    model = nn.Sequential(nn.Linear(8, 600), nn.ReLU(), nn.Dropout(0.5), nn.Dropout(0.1))
    compiled, x = fxpass.compile(model), values((4, 8))
    seen = []
    for m in (model, compiled):
        torch.manual_seed(5)
        seen.append([m(x), torch.rand(3), m(x), torch.randn(2), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("second", [0.0, 2.5, -0.0, float("nan"), float("inf"), 1e-42])
@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_of_zeros_and_one_other_value(second, dtype):
    w = torch.tensor([0.0, second]).to(dtype)[torch.randint(2, (5, 100))]
    x = values((5, 100), dtype, "edges")

    def packed(x):
        y = x * w
        assert ops.pack_noise(y).data_ptr() == y.data_ptr()
        return y

    check(lambda x: x * w, packed, [x])


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_other_factors_are_left_alone(size):
    def packed(x, w):
        y = x * w
        ops.pack_noise(y)
        return y

    x = values((size,))
    three = torch.tensor([0.0, 1.0, 2.0])[torch.arange(size) % 3]
    for w in (three, values((size,), kind="specials"), torch.ones(size), torch.zeros(size)):
        check(lambda x, w: x * w, packed, [x, w], needs=[True, False])
    check(lambda x, w: x * w, packed, [x, three])  # a factor that needs a gradient itself
    check(lambda x, w: x.exp(), lambda x, w: ops.pack_noise(x.exp()), [x, three])


# ---- stochastic depth --------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth(p, mode):
    for training in (True, False):
        model = network(Dropped(p, mode), SqueezeExcite(drop=p)).train(training)
        for dtype in (torch.float32, torch.bfloat16):
            compiled = assert_exact(model.to(dtype), image(dtype))
        if training and p > 0:
            assert operators(compiled).count("stochastic_depth_noise") == 1


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_stochastic_depth_with_a_probability_that_is_none(p):
    model = network(Dropped(p))
    with pytest.raises(ValueError, match="drop probability"):
        model(image())
    with pytest.raises(ValueError, match="drop probability"):
        fxpass.compile(model)(image())


def test_stochastic_depth_changed_after_compile():
    model = network(Dropped(0.3))
    compiled = fxpass.compile(model)
    for change in ("p", "mode"):
        setattr(model[3].drop, change, {"p": 0.8, "mode": "batch"}[change])
        seen = []
        for m in (model, compiled):
            torch.manual_seed(2)
            x = image()
            out = m(x)
            seen.append((out, *torch.autograd.grad(out.sum(), [x, *m.parameters()])))
        assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
