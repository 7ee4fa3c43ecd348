"""Elementwise activations behind a batch norm, and anywhere: eager's bits, and what is kept."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from _bits import check, check_errors_too, values
from _exact import LOSSES, assert_exact, assert_saves_no_more
from _norms import ACTIVATIONS, EAGER, LISTS, OTHERS, Normed, fate, fill_parameters, kept
from _twins import Twins, all_operators, operators
from torch import nn

import fxpass

ops = torch.ops.fxpass
NAMES = [name for name in ACTIVATIONS if name != "none"]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# In place, eager's backward of these reads the result.
STAYS_EAGER = ("leaky_relu_", "elu_", "celu_", "selu_", "threshold_")
FUSED = ("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "mish")


def operators_behind_a_batch_norm(name):
    """The operators that batch norm, activation and convolution become."""
    fused = name.rstrip("_") in FUSED or name in OTHERS or name in STAYS_EAGER
    return ["batch_norm", *([] if fused else ["activation"]), "conv2d"]


def normed(shape, name, dtype=torch.float32, **arguments):
    return fill_parameters(Normed(shape, name, **arguments)).to(dtype)


# ---- behind a batch norm -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((n, d) for n in NAMES for d in DTYPES), *((n, torch.float32) for n in OTHERS)],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_between_a_batch_norm_and_a_convolution(name, dtype, layout):
    for kind, training in (("normal", True), ("specials", True), ("edges", False)):
        x = values((3, 5, 7, 9), dtype, kind, layout).requires_grad_()
        model = normed(x.shape, name, dtype).train(training)
        compiled = assert_exact(model, x, steps=2, note=(kind, training))
    assert operators(compiled) == operators_behind_a_batch_norm(name)
    eager = name in OTHERS or name in STAYS_EAGER
    assert ("self.act(" in compiled._fxpass_unit.latest().program.source) is eager


@pytest.mark.parametrize("name", NAMES)
def test_every_remainder(name):
    for n in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 130):
        x = values((2, 3, n), kind="edges", seed=n).requires_grad_()
        assert_exact(normed(x.shape, name), x, steps=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("on_threads", [1, 2])
def test_large_values_on_all_threads(name, on_threads):
    # Eager's vectors begin anew in each thread's range, and so do their scalar remainders.
    cases = [((3, 67, 19, 13), "contiguous"), ((3, 33, 31, 29), "channels_last")]
    for shape, layout in cases[:on_threads]:
        x = values(shape, layout=layout).requires_grad_()
        assert_exact(normed(shape, name), x, steps=1, on_threads=on_threads, note=layout)


@pytest.mark.parametrize("on_threads", [1, 2])
@pytest.mark.parametrize("n", [32767, 32769, 65537])
def test_around_the_size_of_a_task(n, on_threads):
    # Tiles of ours, and ranges of torch's threads, end at other places.
    for shape in ((1, 1, n), (n, 1)):
        x = values(shape).requires_grad_()
        for name in ("silu", "hardswish", "gelu"):
            assert_exact(normed(shape, name), x, steps=1, on_threads=on_threads, note=(shape, name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reader", [True, False])
def test_gradients_of_all_layouts(name, loss, reader):
    for layout in ("contiguous", "channels_last"):
        x = values((2, 6, 5, 7), kind="edges", layout=layout).requires_grad_()
        model = normed(x.shape, name, reader=reader)
        assert_exact(model, x, steps=1, loss_fn=LOSSES[loss], note=layout)


@pytest.mark.parametrize("name", NAMES)
def test_a_result_with_several_readers(name):
    class Several(Normed):
        def forward(self, x):
            y = self.act(self.bn(x))
            return self.reader(y) + self.reader(y + 1), y.mean(1), F.max_pool2d(y, 2)

    x = values((2, 4, 8, 8)).requires_grad_()
    assert_exact(fill_parameters(Several(x.shape, name)), x)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_norm_with_several_readers(name):
    class Several(Normed):
        def forward(self, x):
            y = self.bn(x)
            return self.reader(y + 1) + self.reader(self.act(y))

    x = values((2, 4, 8, 8)).requires_grad_()
    assert_exact(fill_parameters(Several(x.shape, name)), x, may_raise=name.endswith("_"))


# ---- without one -------------------------------------------------------------------------------


class Plain(nn.Module):
    """Convolution, activation, convolution; `before` is called on the first one's result."""

    def __init__(self, name, before=None, channels=4):
        super().__init__()
        self.before = before or (lambda m, y, x: y)
        self.first, self.second = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, 2, 1)
        self.act = (ACTIVATIONS | OTHERS)[name]()
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.second(self.act(self.before(self, self.first(x), x)))


# What the activation reads, and whether that has a handle, by which it is kept.
BEFORE = {
    "convolution": (lambda m, y, x: y, False),
    "relu": (lambda m, y, x: torch.relu(y), True),
    "sum": (lambda m, y, x: y + torch.relu(x * 2), False),
    "dropout of relu": (lambda m, y, x: m.drop(torch.relu(y)), True),
    "view of relu": (lambda m, y, x: torch.relu(y).transpose(2, 3), True),
    "max pool of relu": (lambda m, y, x: F.max_pool2d(torch.relu(y), 3, 1, 1), True),
    "cat": (lambda m, y, x: torch.cat([torch.relu(y[:, :2]), y[:, 2:]], 1), False),
}


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
@pytest.mark.parametrize("before", BEFORE)
def test_what_else_it_may_read(name, before):
    function, has_handle = BEFORE[before]
    x = values((2, 4, 6, 7), kind="edges").requires_grad_()
    # Where it writes over a ReLU's result, or a view of it, eager raises in backward.
    compiled = assert_exact(Plain(name, function), x, steps=2, may_raise=name.endswith("_"))
    found = operators(compiled)
    if has_handle and name not in OTHERS and not name.startswith("relu"):
        ours = "activation_" if name.endswith("_") else "activation"
        assert (ours in found) is (name not in STAYS_EAGER)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_by_a_handle(name, dtype):
    for layout in ("contiguous", "channels_last"):
        x = values((2, 4, 7, 9), dtype, "specials", layout).requires_grad_()
        assert_exact(Plain(name, BEFORE["max pool of relu"][0]).to(dtype), x, steps=2, note=layout)


@pytest.mark.parametrize("name", ["silu", "gelu", "hardswish_", "leaky_relu"])
@pytest.mark.parametrize("on_threads", [1, 2])
def test_large_values_kept_by_a_handle(name, on_threads):
    x = values((3, 4, 67, 91), kind="edges").requires_grad_()
    assert_exact(Plain(name, BEFORE["max pool of relu"][0]), x, steps=1, on_threads=on_threads)


@pytest.mark.parametrize("name", NAMES)
def test_a_write_before_backward_raises_as_in_eager(name):
    seen = []
    writes = {
        "nothing": lambda m, x, out: None,
        "input": lambda m, x, out: x.mul_(2),
        "what it read": lambda m, x, out: seen[-1].mul_(2),
        "weight": lambda m, x, out: m.second.weight.mul_(2),
    }

    def see(module, args):
        seen.append(args[0])

    for write, function in writes.items():
        torch.manual_seed(0)
        model = Plain(name, BEFORE["max pool of relu"][0])
        model.act.register_forward_pre_hook(see)
        both = (copy.deepcopy(model), fxpass.compile(model))
        fates = [fate(m, values((2, 4, 6, 7)), function) for m in both]
        assert fates[0] == fates[1], write
        if write == "weight" or (write == "what it read" and name != "relu"):
            assert fates[0] == "raises"  # a ReLU reads its result


# ---- spellings and arguments -------------------------------------------------------------------

SPELLINGS = {
    "hardtanh": [
        lambda y: F.hardtanh(y, -0.5, 0.5),
        lambda y: F.hardtanh(y, max_val=2.0),
        lambda y: F.hardtanh(y, inplace=True),
        F.relu6,
        lambda y: F.relu6(y, True),
    ],
    "leaky_relu": [F.leaky_relu, lambda y: F.leaky_relu(y, negative_slope=0.3)],
    "elu": [F.elu, lambda y: F.elu(y, alpha=2.0)],
    "hardswish": [F.hardswish, lambda y: F.hardswish(y, inplace=True)],
    "hardsigmoid": [F.hardsigmoid, lambda y: F.hardsigmoid(y, True)],
    "silu": [F.silu, lambda y: F.silu(y, inplace=True)],
    "mish": [F.mish, lambda y: F.mish(y, True)],
    "gelu_none": [F.gelu, lambda y: F.gelu(y, approximate="none")],
    "gelu_tanh": [lambda y: F.gelu(y, approximate="tanh")],
    "softplus": [F.softplus, lambda y: F.softplus(y, 3.0), lambda y: F.softplus(y, threshold=1)],
    "celu": [F.celu, lambda y: F.celu(y, alpha=2.5)],
    "selu": [F.selu],
    "threshold": [lambda y: F.threshold(y, 1, 2), lambda y: F.threshold(y, 0.1, value=-0.5)],
    "hardshrink": [F.hardshrink, lambda y: F.hardshrink(y, lambd=0.2)],
    "softshrink": [F.softshrink, lambda y: F.softshrink(y, 0.2)],
    "logsigmoid": [F.logsigmoid],
}


class Function(Normed):
    def __init__(self, function):
        super().__init__((2, 4, 6, 6))
        self.function = function

    def forward(self, x):
        return self.reader(self.function(self.bn(x)))


@pytest.mark.parametrize(
    ("name", "function"), [(name, f) for name, spelled in SPELLINGS.items() for f in spelled]
)
def test_however_it_is_spelled(name, function):
    x = values((2, 4, 6, 6)).requires_grad_()
    compiled = assert_exact(Function(function), x, steps=2)
    assert operators(compiled) == operators_behind_a_batch_norm(name)
    assert f"'{name}'" in compiled._fxpass_unit.latest().program.source


CHANGES = {
    "hardtanh": lambda m: setattr(m.act, "max_val", 0.25),
    "leaky_relu": lambda m: setattr(m.act, "negative_slope", 0.7),
    "elu": lambda m: setattr(m.act, "alpha", 3.0),
    "gelu": lambda m: setattr(m.act, "approximate", "tanh"),
    "softplus": lambda m: setattr(m.act, "beta", 0.5),
    "celu": lambda m: setattr(m.act, "alpha", 3.0),
    "threshold": lambda m: setattr(m.act, "value", 3.0),
    "hardshrink": lambda m: setattr(m.act, "lambd", 0.8),
    "softshrink": lambda m: setattr(m.act, "lambd", 0.8),
    "silu": lambda m: setattr(m.act, "inplace", True),
    "hardswish": lambda m: setattr(m, "act", nn.Hardsigmoid()),
    "mish": lambda m: setattr(m.act, "forward", lambda x: x * 2),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("model", [lambda name: Normed((2, 4, 6, 6), name), Plain])
def test_arguments_changed_after_compile(name, model):
    twins = Twins(lambda: model(name))
    twins.step(values((2, 4, 6, 6)))
    twins.each(CHANGES[name])
    for _ in range(2):
        twins.step(values((2, 4, 6, 6)))


# ---- the operators themselves ------------------------------------------------------------------

NOT_IN_PLACE = (
    *("leaky_relu", "elu", "gelu_none", "gelu_tanh", "softplus", "celu", "selu", "threshold"),
    *("hardshrink", "softshrink", "logsigmoid"),
)


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operator(name, dtype):
    def ours(x, handle=True):
        y, saved = ops.relu(x)
        return ops.activation(y, saved if handle else None, name, LISTS.get(name, []))

    for layout in ("contiguous", "channels_last", "sliced", "transposed", "expanded"):
        x = values((3, 4, 5, 7), dtype, "specials", layout)
        check(lambda x: EAGER[name](torch.relu(x)), ours, [x])
        check(lambda x: EAGER[name](torch.relu(x)), lambda x: ours(x, False), [x])
    check(lambda x: EAGER[name](torch.relu(x)), ours, [values((0, 3), dtype)])


@pytest.mark.parametrize("name", EAGER)
def test_the_operator_in_place(name):
    arguments = LISTS.get(name, [])
    if name in NOT_IN_PLACE:
        with pytest.raises(ValueError, match=f"'{name}' has no in-place form"):
            ops.activation_(torch.ones(3), None, name, arguments)
        return

    def in_place(x):
        y, saved = ops.relu(x)
        # The handle is claimed before its value is written over.
        z = ops.activation_(y, saved, name, arguments)
        assert z.data_ptr() == y.data_ptr()
        return z

    eager_ = getattr(torch.ops.aten, f"{name}_")

    def eager(x):
        # The ReLU's result is written over: eager raises, unless something is in between.
        return eager_(torch.relu(x))

    check_errors_too(eager, in_place, [values((2, 3, 5, 7))])
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        ops.activation_(x, ops.bitmap(x), name, arguments)


def test_what_the_operator_refuses():
    x = torch.ones(3)
    with pytest.raises(ValueError, match="unknown activation 'sine'"):
        ops.activation(x, None, "sine")
    for name, arguments in (("silu", [1.0]), ("hardtanh", [1.0]), ("elu", [])):
        with pytest.raises(ValueError, match=f"'{name}' takes"):
            ops.activation(x, None, name, arguments)
        with pytest.raises(ValueError, match=f"'{name}' takes"):
            ops.rerun_activation(x, None, name, arguments, True)


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool])
def test_other_dtypes(dtype):
    x = torch.arange(-4, 5).to(dtype)
    for name, eager in EAGER.items():
        arguments = LISTS.get(name, [])
        check_errors_too(
            eager, lambda x, n=name, a=arguments: ops.activation(x, ops.bitmap(x), n, a), [x]
        )


# ---- memory ------------------------------------------------------------------------------------

MASK = 1 / 32
# What eager keeps besides the input; without a handle it is eager's own node.
BUFFER = {"logsigmoid": 1}


def small_output(model):
    model.reader = nn.Conv2d(16, 1, 1)  # 1/16 of its input
    return model


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_what_is_kept_behind_a_batch_norm(name):
    x = values((8, 16, 32, 32))
    eager, ours = kept(small_output(normed(x.shape, name)), x)
    if name in OTHERS or name in STAYS_EAGER:
        assert ours <= eager
    elif name in ("relu", "relu_"):
        assert (eager, ours) == pytest.approx((1.06, 0.06 + MASK), abs=0.011)
    else:
        assert (eager, ours) == (2.06 + BUFFER.get(name, 0), 0.06)


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_what_is_kept_without_one(name):
    x = values((8, 16, 32, 32))
    model = Plain(name, channels=16)
    eager, ours = kept(model, x)
    output = 1 / 8
    if name in OTHERS or name in STAYS_EAGER:
        assert ours == eager
    elif name in ("relu", "relu_"):
        assert ours < 0.7 < 1 < eager
    elif name in ("relu6", "relu6_"):
        assert ours < 0.85 < 2 < eager
    else:
        # The first convolution's result, of which the other is made again if it is still there.
        expected = 2 if name.endswith("_") else 1
        if name in ("hardtanh_", "hardsigmoid_"):
            expected = 1 + MASK
        more = output + BUFFER.get(name, 0)
        assert (eager, ours) == pytest.approx((2 + more, expected + more), abs=0.011)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_reader_keeps_no_input(name):
    x = values((8, 16, 16, 16)).requires_grad_()
    for model in (Plain(name, channels=16), normed(x.shape, name)):
        (model.second if isinstance(model, Plain) else model.reader).requires_grad_(False)
        compiled = assert_exact(model, x, steps=2)
        assert_saves_no_more(model, compiled, x, slack=6 * 16 * 4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept(mode):
    x = values((2, 4, 16, 16))
    for name in NAMES:
        compiled = fxpass.compile(Plain(name, BEFORE["relu"][0]))
        with mode():
            compiled(x)
            with fxpass.memory.track() as memory:
                out = compiled(x)
                assert memory.live_bytes == out.nbytes, all_operators(compiled)
            del out


@pytest.mark.parametrize("reader", [nn.Identity, partial(nn.MaxPool2d, 2)])
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name.endswith("_")])
def test_what_is_computed_in_place_and_written_over(name, reader):
    # Some keep their result (leaky_relu_): eager's backward then raises, and so must ours.
    model = nn.Sequential(
        nn.Conv2d(2, 3, 1), ACTIVATIONS[name](), nn.ReLU(inplace=True), reader(), nn.Conv2d(3, 2, 1)
    )
    assert_exact(model, values((2, 2, 6, 6)).requires_grad_(), steps=1, may_raise=True)
