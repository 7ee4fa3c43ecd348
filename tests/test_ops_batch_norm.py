"""Batch norm, alone and as one op with an activation: eager's bits, statistics and errors."""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from _bits import LAYOUTS, examples, values
from _exact import LOSSES, assert_exact, assert_saves_no_more
from _norms import ACTIVATIONS, NORMS, Normed, fate, fill_parameters, kept
from _twins import Twins, operators
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import FILLS
from torch import nn

import fxpass

SOME = ("none", "relu", "relu_", "silu", "hardswish_", "gelu")  # all: test_ops_activations.py


# ---- every argument ----------------------------------------------------------------------------


@dataclass
class Case:
    shape: tuple
    dtype: torch.dtype = torch.float32
    parameters: torch.dtype = torch.float32
    layout: str = "contiguous"
    fill: str = "normal"
    parameter_fill: str = "normal"
    activation: str = "none"
    reader: bool = True
    functional: bool = False
    arguments: dict = field(default_factory=dict)
    without_weight: bool = False
    training: bool = True
    frozen: tuple = ()
    needs_gradient: bool = True
    loss: str = "weighted"

    def model(self):
        model = Normed(
            self.shape, self.activation, self.reader, self.functional, **self.arguments
        ).to(self.dtype)
        model.bn.to(self.parameters)
        fill_parameters(model, self.parameter_fill)
        if self.without_weight:
            model.bn.weight = None
        for name, parameter in model.bn.named_parameters():
            parameter.requires_grad_(name not in self.frozen)
        return model.train(self.training)

    def input(self):
        x = values(self.shape, self.dtype, self.fill, self.layout, seed=3)
        return x.requires_grad_(self.needs_gradient)


RARE = (
    {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.0},
    {"momentum": 1.0}, {"eps": 0.5}, {"eps": 0.0}, {"affine": False, "track_running_stats": False},
)  # fmt: skip
DTYPES = [(torch.float32,) * 2] * 4 + [
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16),
]


@st.composite
def cases(draw):
    dims = draw(st.sampled_from([2, 2, 2, 1, 3, 0]))
    batch, channels = draw(st.sampled_from([2, 2, 3, 4, 1, 0])), draw(st.integers(1, 9))
    sizes = [draw(st.sampled_from([1, 2, 3, 4, 7, 8, 17])) for _ in range(dims)]
    dtype, parameters = draw(st.sampled_from(DTYPES))
    return Case(
        (batch, channels, *sizes), dtype, parameters,
        layout=draw(st.sampled_from(["contiguous", "channels_last", *LAYOUTS])),
        fill=draw(st.sampled_from(["normal", "normal", *FILLS])),
        parameter_fill=draw(st.sampled_from(["normal"] * 5 + ["edges", "specials", "zeros"])),
        activation=draw(st.sampled_from(SOME)),
        reader=draw(st.sampled_from([True, True, False])),
        functional=draw(st.sampled_from([False, False, True])),
        arguments=draw(st.sampled_from([{}] * 5 + list(RARE))),
        without_weight=draw(st.integers(0, 7)) == 5,
        training=draw(st.sampled_from([True, True, False])),
        frozen=draw(st.sampled_from([(), (), (), ("weight",), ("bias",), ("weight", "bias")])),
        needs_gradient=draw(st.sampled_from([True, True, True, False])),
        loss=draw(st.sampled_from([*LOSSES, "weighted"])),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@examples(250)
@given(cases())
def test_every_argument(case):
    assert_exact(
        case.model(), case.input(), steps=2, loss_fn=LOSSES[case.loss], may_raise=True, note=case
    )


SHAPES = [(4, 3), (3, 5, 7), (2, 4, 6, 5), (2, 3, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_it_is_rewritten(shape, training):
    model = fill_parameters(Normed(shape, "relu")).train(training)
    found = operators(assert_exact(model, values(shape).requires_grad_()))
    assert found == ["batch_norm", "linear" if len(shape) == 2 else f"conv{len(shape) - 2}d"]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
@pytest.mark.parametrize("on_threads", [1, 2])
def test_large_inputs_on_all_threads(layout, dtype, activation, on_threads):
    # More than a task of torch's pool takes; the numbers of planes and of elements are odd.
    shapes = (3, 5, 67, 91), (3, 67, 19, 13)
    for shape, training in [(shapes[0], True), (shapes[1], True), (shapes[1], False)]:
        x = values(shape, dtype, "edges", layout).requires_grad_()
        model = fill_parameters(Normed(shape, activation)).to(dtype).train(training)
        assert_exact(model, x, steps=1, on_threads=on_threads, note=(shape, training))


@pytest.mark.parametrize("channels", [1, 2, 7, 8, 9, 15, 17, 33, 65])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_every_remainder(channels, layout):
    for plane in ((1, 3), (3, 5), (8, 8)):
        x = values((2, channels, *plane), layout=layout, seed=channels).requires_grad_()
        for activation in ("relu", "none"):
            assert_exact(fill_parameters(Normed(x.shape, activation)), x, steps=1)


# ---- special values ----------------------------------------------------------------------------


PARTS = ("input", "parameters")


@pytest.mark.parametrize("activation", SOME)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("special", ["specials", "edges"])
@pytest.mark.parametrize("where", [*PARTS, "both"])
def test_special_values(activation, training, special, where):
    for layout in ("contiguous", "channels_last"):
        kinds = [special if where in (part, "both") else "normal" for part in PARTS]
        x = values((3, 6, 5, 7), kind=kinds[0], layout=layout).requires_grad_()
        model = fill_parameters(Normed(x.shape, activation), kinds[1], seed=9).train(training)
        assert_exact(model, x, steps=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 0.0, 1e-42, 3e38])
@pytest.mark.parametrize("training", [True, False])
def test_a_constant_input(value, training):
    # No variance: invstd is what eps makes it, and the result is the bias, or NaN.
    for bias in (0.0, -0.0, 1.0):
        model = Normed((2, 3, 4, 4), "relu").train(training)
        nn.init.constant_(model.bn.bias, bias)
        assert_exact(model, torch.full((2, 3, 4, 4), value, requires_grad=True), steps=1)


# ---- statistics --------------------------------------------------------------------------------


def buffers(model):
    return {name: b.clone() for name, b in model.named_buffers()}


def same_buffers(a, b):
    a, b = buffers(a), buffers(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_statistics_are_updated_once_a_forward(momentum, activation):
    twins = Twins(lambda: Normed((4, 3, 5, 5), activation, momentum=momentum))
    x = values((4, 3, 5, 5))
    for model in (twins.eager, twins.compiled):
        leaf = x.clone().requires_grad_()
        out = model(leaf)
        after = buffers(model)
        for retain in (True, True, False):  # whatever backward makes again updates nothing
            out.sum().backward(retain_graph=retain)
        assert all(torch.equal(after[name], b) for name, b in model.named_buffers())
    assert same_buffers(twins.eager, twins.compiled)
    assert twins.compiled.bn.num_batches_tracked == 1
    twins.step(x)


def test_several_forwards_before_their_backwards():
    twins = Twins(lambda: Normed((4, 3, 5, 5), "silu"))
    grads = {}
    for model in (twins.eager, twins.compiled):
        outs = [model(values((4, 3, 5, 5), seed=i)) for i in range(3)]
        for out in reversed(outs):
            out.sum().backward()
        grads[model is twins.eager] = [p.grad for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(grads[True], grads[False], strict=True))
    assert same_buffers(twins.eager, twins.compiled)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_statistics_without_gradients(mode):
    twins = Twins(lambda: Normed((4, 3, 5, 5), "relu"))
    with mode():
        for model in (twins.eager, twins.compiled):
            model(values((4, 3, 5, 5)))
    assert same_buffers(twins.eager, twins.compiled)


# ---- errors ------------------------------------------------------------------------------------


def error_of(model, x):
    try:
        model(x)
    except Exception as error:
        return type(error), str(error)
    return None


@pytest.mark.parametrize("dims", NORMS)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_errors_are_eagers_and_count_as_eagers(dims, momentum, activation):
    shape = (2, 3, *[4] * dims)
    twins = Twins(lambda: Normed(shape, activation, reader=False, momentum=momentum))
    twins.step(values(shape))
    wrong = {
        "too few dimensions": ((3,), 1),
        "too many dimensions": ((2, 3, *[4] * (dims + 1)), 1),
        "one value a channel": ((1, 3, *[1] * dims), 2),  # counted before it is seen
        "other channels": ((2, 5, *[4] * dims), 3),
    }
    for name, (sizes, count) in wrong.items():
        x = values(sizes)
        found = [error_of(m, x.clone().requires_grad_()) for m in (twins.eager, twins.compiled)]
        assert found[0] is not None, name
        assert found[0] == found[1], name
        assert twins.compiled.bn.num_batches_tracked == count
        assert same_buffers(twins.eager, twins.compiled), name
    twins.step(values(shape))


def test_one_value_a_channel_is_no_error_in_evaluation():
    for shape in ((1, 3), (1, 3, 1), (1, 3, 1, 1), (1, 3, 1, 1, 1)):
        model = fill_parameters(Normed(shape, "relu")).eval()
        assert_exact(model, values(shape).requires_grad_())


def test_an_eps_that_eager_refuses():
    for eps in (0.0, -1e-3):
        model = Normed((2, 3, 4, 4), "relu", eps=eps)
        assert_exact(model, values((2, 3, 4, 4)).requires_grad_(), may_raise=True)


# ---- what is changed after compile -------------------------------------------------------------


def swap_weight(m):
    m.bn.weight = nn.Parameter(torch.linspace(-1, 2, 3))


CHANGES = {
    "eval": lambda m: m.bn.eval(),
    "model eval": lambda m: m.eval(),
    "momentum": lambda m: setattr(m.bn, "momentum", 0.7),
    "momentum None": lambda m: setattr(m.bn, "momentum", None),
    "eps": lambda m: setattr(m.bn, "eps", 0.3),
    "no tracking": lambda m: setattr(m.bn, "track_running_stats", False),
    "frozen": lambda m: m.bn.requires_grad_(False),
    "weight frozen": lambda m: m.bn.weight.requires_grad_(False),
    "bias frozen": lambda m: m.bn.bias.requires_grad_(False),
    "weight replaced": swap_weight,
    "no bias": lambda m: setattr(m.bn, "bias", None),
    "no statistics": lambda m: [setattr(m.bn, n, None) for n in ("running_mean", "running_var")],
    "reset": lambda m: m.bn.reset_running_stats(),
    "double": lambda m: m.double(),
    "other norm": lambda m: setattr(m, "bn", nn.BatchNorm2d(3, affine=False)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_what_is_changed_after_compile(change, activation):
    twins = Twins(lambda: Normed((2, 3, 4, 4), activation))
    dtype = torch.float64 if change == "double" else torch.float32
    twins.step(values((2, 3, 4, 4)))
    twins.each(CHANGES[change])
    for seed in range(2):
        twins.step(values((2, 3, 4, 4), dtype, seed=seed))
    assert "batch_norm" in operators(twins.compiled)
    twins.each(lambda m: m.train())
    twins.step(values((2, 3, 4, 4), dtype))


HOOKS = {
    "forward": lambda m: m.register_forward_hook(lambda m, args, out: out * 1.5),
    "forward pre": lambda m: m.register_forward_pre_hook(lambda m, args: (args[0] + 1,)),
    "backward": lambda m: m.register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,)),
    "momentum": lambda m: m.register_forward_pre_hook(
        lambda m, args: setattr(m, "momentum", 0.5) if isinstance(m, nn.BatchNorm2d) else None
    ),
}


@pytest.mark.parametrize("path", ["bn", "act"])
@pytest.mark.parametrize(
    ("kind", "activation"),
    # A backward hook and an activation in place: eager raises.
    [(k, a) for k in HOOKS for a in ("relu", "relu_", "silu") if (k, a) != ("backward", "relu_")],
)
def test_hooks(kind, path, activation):
    twins = Twins(lambda: Normed((2, 3, 4, 4), activation))
    twins.step(values((2, 3, 4, 4)))
    twins.each(lambda m: HOOKS[kind](m.get_submodule(path)))
    for seed in range(2):
        twins.step(values((2, 3, 4, 4), seed=seed))
    assert "batch_norm" in operators(twins.compiled)


# ---- what may be written to before backward ----------------------------------------------------

WRITES = {
    "input": lambda m, x, out: x.mul_(2),
    "weight": lambda m, x, out: m.bn.weight.mul_(2),
    "bias": lambda m, x, out: m.bn.bias.mul_(2),
    "running mean": lambda m, x, out: m.bn.running_mean.mul_(2),
    "running variance": lambda m, x, out: m.bn.running_var.mul_(2),
    "output": lambda m, x, out: out.mul_(2),
    "nothing": lambda m, x, out: None,
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "relu_", "silu"])
@pytest.mark.parametrize("reader", [True, False])
def test_a_write_before_backward_raises_as_in_eager(training, activation, reader):
    fates = {}
    for write, function in WRITES.items():
        model = fill_parameters(Normed((2, 3, 4, 4), activation, reader)).train(training)
        both = (copy.deepcopy(model), fxpass.compile(model))
        expected, found = (fate(m, values((2, 3, 4, 4)), function) for m in both)
        assert expected == found, write
        fates[write] = expected
    assert fates["weight"] == fates["input"] == "raises"
    assert fates["bias"] == fates["nothing"] != "raises"


# ---- memory ------------------------------------------------------------------------------------


def test_what_is_kept_in_training():
    x = values((8, 16, 32, 32))
    one_layer = dict.fromkeys(("none", "relu", "relu_", "silu", "hardswish_", "gelu"))
    for name in one_layer:
        model = Normed(x.shape, name)
        model.reader = nn.Conv2d(16, 1, 1)  # the output is small
        one_layer[name] = kept(model, x)
    mask = 1 / 32
    # The user's input is not counted; the batch norm's output and the activation's are.
    assert one_layer["none"] == (1.06, 0.06)
    for name in ("relu", "relu_"):
        assert one_layer[name] == pytest.approx((1.06, 0.06 + mask), abs=0.011), name
    for name in ("silu", "hardswish_", "gelu"):
        assert one_layer[name] == (2.06, 0.06), name


def test_what_is_kept_with_frozen_statistics():
    x = values((8, 16, 32, 32))

    def model(activation, frozen):
        made = Normed(x.shape, activation).eval()
        made.reader = nn.Conv2d(16, 1, 1)
        made.bn.requires_grad_(not frozen)
        # In front of it something whose result nobody else keeps.
        return nn.Sequential(nn.AvgPool2d(1), made)

    mask, out = 1 / 32, 1 / 16
    # Only the gradient of the weight reads the batch norm's input.
    assert kept(model("none", True), x) == pytest.approx((2 + out, 1 + out), abs=0.011)
    eager, ours = kept(model("relu", True), x)
    assert eager == pytest.approx(2 + out, abs=0.011)
    assert ours == pytest.approx(0.5 + mask + out, abs=0.05)  # a bitmap of the activation
    assert kept(model("relu", False), x) == pytest.approx((2 + out, 1 + mask + out), abs=0.011)
    assert kept(model("silu", True), x) == pytest.approx((3 + out, 1 + out), abs=0.011)
    bare = model("none", True)
    bare[1].reader = nn.AvgPool2d(32)
    assert kept(bare, x) == pytest.approx((2, 0), abs=0.011)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept(mode):
    model = fxpass.compile(Normed((8, 16, 32, 32), "silu", reader=False))
    x = values((8, 16, 32, 32))
    with mode():
        model(x)  # traced
        with fxpass.memory.track() as memory:
            out = model(x)
            assert memory.live_bytes == out.nbytes


@pytest.mark.parametrize("frozen", [(), ("weight",), ("bias",), ("weight", "bias")])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_never_more_than_eager(frozen, training, activation):
    model = fill_parameters(Normed((4, 8, 16, 16), activation)).train(training)
    for name in frozen:
        model.bn.get_parameter(name).requires_grad_(False)
    for needs_gradient in (True, False):
        x = values((4, 8, 16, 16)).requires_grad_(needs_gradient)
        compiled = assert_exact(model, x, steps=1)
        # Copies of a few vectors of one element a channel.
        assert_saves_no_more(model, compiled, x, slack=6 * 8 * 4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["relu_", "relu", "hardswish_", "relu6_", "silu_", "silu"])
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 1, 5), (2, 1, 4, 5), (1, 3, 4, 1)])
def test_empty_and_one_element_wide_inputs_have_eagers_strides(shape, activation, training):
    # Where a size is 1 a tensor is of both memory formats, and ATen's ops differ in their choice.
    x = values(shape).requires_grad_()
    of_conv = nn.Conv2d(shape[1], shape[1], 1).to(memory_format=torch.channels_last)
    for image in (x, x.detach().to(memory_format=torch.channels_last).requires_grad_()):
        for reader in (False, True):
            norm = fill_parameters(Normed(shape, activation, reader)).train(training)
            for model in (norm, nn.Sequential(of_conv, norm)):
                assert_exact(model, image, steps=1, may_raise=True)


# ---- memory of backward ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_the_gradient_is_written_over_the_one_given(layout, training, activation):
    x = values((8, 16, 64, 64), layout=layout).requires_grad_()
    model = nn.Sequential(nn.BatchNorm2d(16), ACTIVATIONS[activation]()).train(training)
    compiled = fxpass.compile(model)
    for _ in range(2):  # the first time trials run
        x.grad, gradient = None, values(x.shape, layout=layout)
        out = compiled(x) * 2  # whose backward makes the gradient, and lets go of it
        with fxpass.memory.track() as memory:
            out.backward(gradient)
    assert memory.peak_bytes < 1.6 * x.nbytes
