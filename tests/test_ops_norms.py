"""Layer, group and instance norm: eager's bits, and what is kept of their input and output."""

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from _bits import LAYOUTS, check, examples, values
from _exact import LOSSES, assert_exact, assert_saves_no_more
from _norms import CONVS, crashes_without_gradient, fate, fill_parameters
from _twins import Twins, all_operators, saved_bytes
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import FILLS
from torch import nn
from torch.nn.utils import parametrize

import fxpass

ops = torch.ops.fxpass
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
KINDS = ("layer", "group", "instance")


def norm_of(kind, shape, **arguments):
    """A norm for values of this shape; layer norm over the last axis, or the last two."""
    if kind == "layer":
        over = shape[-2:] if arguments.pop("two", False) else shape[-1:]
        return nn.LayerNorm(over, **arguments)
    if kind == "group":
        channels = shape[1]
        groups = max(g for g in (1, 2, 3) if channels % g == 0)
        return nn.GroupNorm(groups, channels, **arguments)
    return INSTANCE[len(shape) - 2](shape[1], **arguments)


# What the norm reads: something with a handle, or not, or a part of something.
BEFORE = {
    "nothing": lambda x: x,
    "relu": torch.relu,
    "copy": lambda x: F.avg_pool1d(x.flatten(2), 1).view(x.shape),
    "pool of relu": lambda x: F.max_pool1d(torch.relu(x).flatten(2), 3, 1, 1).view(x.shape),
    "part of relu": lambda x: torch.relu(torch.cat([x, x], 1))[:, : x.shape[1]],
    "transposed": lambda x: torch.relu(x.transpose(0, 1)).transpose(0, 1),
}
AFTER = {
    "nothing": lambda x: x,
    "relu": torch.relu,
    "relu_": torch.relu_,
    "silu": F.silu,
    "silu_": lambda x: F.silu(x, inplace=True),
    "sigmoid": torch.sigmoid,
    "gate": lambda x: x * torch.sigmoid(x.mean(-1, keepdim=True)),
}


class Between(nn.Module):
    """A norm between what comes before and after it, and a convolution that reads the result."""

    def __init__(self, kind, shape, before="relu", after="nothing", functional=False, **arguments):
        super().__init__()
        self.norm = norm_of(kind, shape, **arguments)
        self.before, self.after = BEFORE[before], AFTER[after]
        self.functional = functional
        self.reader = CONVS[max(len(shape) - 2, 1)](shape[1], 3, 1)

    def forward(self, x):
        y = self.before(x)
        return self.reader(self.after(self.call(y) if self.functional else self.norm(y)))

    def call(self, y):
        n = self.norm
        if isinstance(n, nn.LayerNorm):
            return F.layer_norm(y, n.normalized_shape, n.weight, n.bias, n.eps)
        if isinstance(n, nn.GroupNorm):
            return F.group_norm(y, n.num_groups, n.weight, n.bias, n.eps)
        of_input = n.training or not n.track_running_stats
        return F.instance_norm(
            y, n.running_mean, n.running_var, n.weight, n.bias, of_input, n.momentum, n.eps
        )


def with_weight(kind):
    """The argument that gives a norm its parameters, where it has none by default."""
    return {"affine": True} if kind == "instance" else {}


def kept(model, x):
    """Saved bytes of (eager, compiled), in units of the input."""
    models = (model, fxpass.compile(model))
    return tuple(saved_bytes(m, x) / x.nbytes for m in models)


# ---- every argument ----------------------------------------------------------------------------


@dataclass
class Case:
    kind: str
    shape: tuple
    dtype: torch.dtype
    parameters: torch.dtype
    layout: str
    fill: str
    parameter_fill: str
    before: str
    after: str
    functional: bool
    training: bool
    frozen: tuple
    needs_gradient: bool
    loss: str
    arguments: dict = field(default_factory=dict)

    def model(self):
        model = Between(
            self.kind, self.shape, self.before, self.after, self.functional, **self.arguments
        ).to(self.dtype)
        model.norm.to(self.parameters)
        fill_parameters(model, self.parameter_fill)
        for name in self.frozen:
            getattr(model, name).requires_grad_(False)
        return model.train(self.training)


ARGUMENTS = {
    "layer": [{}, {}, {"two": True}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.5}],
    "group": [{}, {}, {}, {"affine": False}, {"eps": 0.5}],
    "instance": [
        {}, {}, {"affine": True}, {"track_running_stats": True}, {"eps": 0.5},
        {"affine": True, "track_running_stats": True, "momentum": 0.4},
    ],
}  # fmt: skip
DTYPES = [(torch.float32,) * 2] * 5 + [
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16),
]


@st.composite
def cases(draw):
    kind, dims = draw(st.sampled_from(KINDS)), draw(st.sampled_from([2, 2, 1, 3]))
    batch = draw(st.sampled_from([2, 3, 5, 1, 16, 0]))
    shape = (batch, draw(st.sampled_from([1, 2, 3, 4, 6, 9])),
             *(draw(st.sampled_from([1, 2, 4, 7, 8, 17])) for _ in range(dims)))  # fmt: skip
    dtype, parameters = draw(st.sampled_from(DTYPES))
    frozen = draw(st.sampled_from([(), (), (), ("norm",), ("reader",), ("norm", "reader")]))
    return Case(
        kind, shape, dtype, parameters,
        layout=draw(st.sampled_from(["contiguous", "channels_last", *LAYOUTS])),
        fill=draw(st.sampled_from(["normal", "normal", *FILLS])),
        parameter_fill=draw(st.sampled_from(["normal"] * 4 + ["edges", "specials", "zeros"])),
        before=draw(st.sampled_from(list(BEFORE))),
        after=draw(st.sampled_from(list(AFTER))),
        functional=draw(st.sampled_from([False, False, True])),
        training=draw(st.sampled_from([True, True, False])),
        frozen=frozen,
        needs_gradient=draw(st.sampled_from([True, True, False])),
        loss=draw(st.sampled_from(list(LOSSES))),
        arguments=dict(draw(st.sampled_from(ARGUMENTS[kind]))),
    )  # fmt: skip


@examples(150)
@given(cases())
@pytest.mark.filterwarnings("ignore")
def test_a_norm_with_any_arguments(case):
    x = values(case.shape, case.dtype, case.fill, case.layout, seed=3)
    x.requires_grad_(case.needs_gradient or crashes_without_gradient(case.kind, x))
    model = case.model()
    if not any(p.requires_grad for p in [x, *model.parameters()]):
        model.reader.bias.requires_grad_()
    assert_exact(model, x, steps=2, loss_fn=LOSSES[case.loss], may_raise=True, note=case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("on_threads", [1, 2])
def test_large_values_on_all_threads(kind, layout, on_threads):
    # Group norm of a channels_last image of this size sums up with several threads.
    for shape in ((2, 6, 61, 67), (33, 12, 9, 31)):
        x = values(shape, layout=layout).requires_grad_()
        for after in ("silu", "nothing"):
            model = fill_parameters(Between(kind, shape, after=after))
            compiled = assert_exact(model, x, steps=1, on_threads=on_threads, note=shape)
            assert f"rerun_{kind}_norm" in all_operators(compiled)


@pytest.mark.parametrize("kind", ["layer", "group"])
@pytest.mark.parametrize("shape", [(24, 32), (6, 7, 32)])
def test_in_front_of_a_linear_layer(kind, shape):
    norm = norm_of(kind, shape)
    width = shape[-1]
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), norm, nn.Linear(width, 2))
    compiled = assert_exact(model, values(shape).requires_grad_())
    # The input of the norm is the bitmap of a ReLU, and the linear layer's is made of it.
    made = ["relu", f"rerun_{kind}_norm", "bind", "keep_input", "linear"]
    assert all_operators(compiled) == made


# ---- what is kept ------------------------------------------------------------------------------

SHAPE = (8, 16, 24, 24)
READ = 3 / 16  # the reader's output


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", ["nothing", "silu"])
def test_the_output_is_made_again_from_the_input_that_is_kept(kind, after):
    x = values(SHAPE).requires_grad_()
    model = fill_parameters(Between(kind, SHAPE, "copy", after))
    eager, ours = kept(model, x)
    # Eager: the norm's input, its output (twice read), the activation's.
    assert eager == pytest.approx((3 if after == "silu" else 2) + READ, abs=0.12)
    assert ours == pytest.approx(1 + READ, abs=0.12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_relus_result_is_kept_as_a_bitmap(kind):
    x = values(SHAPE).requires_grad_()
    eager, ours = kept(fill_parameters(Between(kind, SHAPE, "relu", "silu")), x)
    assert eager == pytest.approx(3 + READ, abs=0.12)
    assert ours == pytest.approx(0.5 + 1 / 32 + READ, abs=0.12)


@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_batch_norm_nothing_more_is_kept(kind):
    x = values(SHAPE).requires_grad_()
    model = nn.Sequential(nn.AvgPool2d(1), nn.BatchNorm2d(16), norm_of(kind, SHAPE))
    model.append(nn.Conv2d(16, 1, 1))
    eager, ours = kept(model, x)
    assert eager == pytest.approx(3 + 1 / 16, abs=0.12)
    assert ours == pytest.approx(1 + 1 / 16, abs=0.12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", ["norm", "reader", "both"])
@pytest.mark.parametrize("before", ["relu", "copy", "nothing"])
def test_never_more_than_eager(kind, frozen, before):
    model = fill_parameters(Between(kind, SHAPE, before, "silu"))
    for part in ("norm", "reader"):
        if frozen in (part, "both"):
            getattr(model, part).requires_grad_(False)
    for needs_gradient in (True, False):
        x = values(SHAPE).requires_grad_(needs_gradient)
        if needs_gradient or frozen != "both":
            compiled = assert_exact(model, x, steps=1)
            # Copies of the norm's parameters.
            assert_saves_no_more(model, compiled, x, slack=2 * 4 * 24)


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_of_a_block_compiled_by_itself(kind):
    # Nothing is known of it before the norm has taken it.
    x = values(SHAPE).requires_grad_()
    model = fill_parameters(Between(kind, SHAPE, "nothing", "silu"))
    eager, ours = kept(nn.Sequential(nn.AvgPool2d(1), model), x)
    assert ours == pytest.approx(1 + READ, abs=0.12)
    eager, ours = kept(model, x)  # which is the user's: nothing but the output
    assert ours == pytest.approx(READ, abs=0.12)
    assert eager > ours + 1.9
    for wrong in (3, None, "x", [x]):
        errors = []
        for module in (model, fxpass.compile(model)):
            with pytest.raises(Exception) as error:  # noqa: PT011
                module(wrong)
            errors.append(type(error.value))
        assert errors[0] is errors[1]


@pytest.mark.parametrize("kind", ["group", "instance"])
def test_an_input_of_which_the_norm_keeps_a_copy_may_be_written_to(kind):
    found = []
    for make in (lambda m: m, fxpass.compile):
        torch.manual_seed(0)
        model = Between(kind, SHAPE, "nothing", **with_weight(kind))
        model.before = lambda x: x[:, :, 1:]
        model = make(model)
        x = values(SHAPE)
        out = model(x)
        x.mul_(2)
        found.append(torch.autograd.grad(out, list(model.parameters()), values(out.shape, seed=2)))
    assert all(map(torch.equal, *found))


def test_parameters_as_large_as_the_value_are_not_copied():
    # Of one image a layer norm over all of it: its weight and bias would be two copies of it.
    x = values((1, 4, 30, 30)).requires_grad_()
    model = nn.Sequential(nn.AvgPool2d(1), nn.LayerNorm((4, 30, 30)), nn.Conv2d(4, 1, 1))
    eager, ours = kept(model, x)
    assert ours == eager
    x = values((16, 4, 30, 30)).requires_grad_()
    eager, ours = kept(model, x)
    assert ours < eager - 0.8
    assert_exact(model, x)


class Words(nn.Module):
    """Words looked up, their places added, and a block of a transformer's feed-forward layers."""

    def __init__(self, width=32):
        super().__init__()
        self.words, self.places = nn.Embedding(50, width), nn.Embedding(12, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, ids, places):
        x = self.words(ids) + self.places(places)
        x = x + self.narrow(F.gelu(self.wide(self.norm1(x))))
        return self.head(self.norm2(x))


def test_a_network_fed_by_embeddings():
    ids = torch.arange(16 * 12).view(16, 12) * 7 % 50
    places = torch.arange(12).expand(16, 12)
    model = Words()
    compiled = assert_exact(model, ids, places)
    assert all_operators(compiled).count("rerun_layer_norm") == 2
    unit = 16 * 12 * 32 * 4
    eager, ours = (saved_bytes(m, ids, places) / unit for m in (model, compiled))
    # Both sums; eager: both norms' results too, and the activation beside its input.
    assert eager == pytest.approx(2 + 2 + 8, abs=0.3)
    assert ours == pytest.approx(2 + 4, abs=0.4)


# ---- as any other module -----------------------------------------------------------------------


def writes(kind):
    return {
        "nothing": (lambda m, x, out: None, False),
        # Of an instance norm's weight eager keeps a copy.
        "norm's weight": (lambda m, x, out: m.norm.weight.mul_(2), kind != "instance"),
        "reader's weight": (lambda m, x, out: m.reader.weight.mul_(2), True),
        "input": (lambda m, x, out: x.mul_(2), False),  # a ReLU's result is what is kept
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write", ["nothing", "norm's weight", "reader's weight", "input"])
def test_a_write_before_backward_raises_as_in_eager(kind, write):
    function, raises = writes(kind)[write]
    fates = []
    for make in (lambda m: m, fxpass.compile):
        torch.manual_seed(0)
        model = Between(kind, (4, 6, 5, 7), "relu", "silu", **with_weight(kind))
        fates.append(fate(make(model), values((4, 6, 5, 7)), function))
    assert fates[0] == fates[1]
    assert (fates[0] == "raises") is raises


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_written_to_where_only_the_reader_runs_backward(kind):
    # Eager keeps the norm's result: the reader's gradient does not see the write.
    found = []
    for make in (lambda m: m, fxpass.compile):
        torch.manual_seed(0)
        model = make(Between(kind, SHAPE, "copy", **with_weight(kind)))
        out = model(values(SHAPE))
        with torch.no_grad():
            model.norm.weight.mul_(3)
            model.norm.bias.add_(1)
        found.append(torch.autograd.grad(out, model.reader.weight, values(out.shape, seed=2))[0])
    assert torch.equal(*found)


CHANGES = {
    "layer": lambda m: setattr(m.norm, "eps", 0.3),
    "group": lambda m: setattr(m.norm, "num_groups", 1),
    "instance": lambda m: setattr(m.norm, "eps", 0.3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_changed_after_compile(kind):
    twins = Twins(lambda: Between(kind, (4, 6, 5, 7), "relu", "silu"))
    twins.step(values((4, 6, 5, 7)))
    twins.each(CHANGES[kind])
    twins.step(values((4, 6, 5, 7)))


def test_running_statistics_are_updated_once_a_step():
    twins = Twins(lambda: Between("instance", SHAPE, after="silu", track_running_stats=True))
    for training in (True, False, True):
        twins.each(lambda m, training=training: m.norm.train(training))
        twins.step(values(SHAPE))
    assert "rerun_instance_norm" in all_operators(twins.compiled)


@pytest.mark.parametrize("shape", [(6, 5, 7), (2, 6, 5, 7), (6, 7), (2, 5, 5, 7), (2, 6, 1, 1)])
@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_of_no_batch_and_of_wrong_shapes(shape, affine):
    norm = nn.InstanceNorm2d(6, affine=affine)
    model = nn.Sequential(nn.ReLU(), norm, nn.AvgPool2d(1))
    x = values(shape).requires_grad_()
    if shape == (2, 5, 5, 7) and not affine:
        with pytest.warns(UserWarning, match="does not match num_features"):
            assert_exact(model, x, may_raise=True)
    else:
        assert_exact(model, x, may_raise=True)


class Counted(nn.Module):
    """A parametrisation that counts how often it is computed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, weight):
        self.count += 1
        return weight * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_parametrised_weight_is_computed_once(kind):
    model = Between(kind, SHAPE, "relu", "silu", **with_weight(kind))
    parametrize.register_parametrization(model.norm, "weight", Counted())
    compiled = assert_exact(model, values(SHAPE).requires_grad_())
    assert f"rerun_{kind}_norm" not in all_operators(compiled)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward"])
def test_hooks(kind, hook):
    def make():
        model = Between(kind, (4, 6, 5, 7), "relu", "silu")
        register = getattr(model.norm, f"register_{hook}_hook")
        if hook == "forward":
            register(lambda m, args, out: out * 2)
        elif hook == "forward_pre":
            register(lambda m, args: (args[0] + 1,))
        else:
            register(lambda m, given, grads: tuple(g * 2 for g in given))
        return model

    twins = Twins(make)
    for _ in range(2):
        twins.step(values((4, 6, 5, 7)))


# ---- the operators -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_keep_input(dtype, layout):
    w = torch.ones(7, dtype=dtype)

    def eager(x):
        return F.layer_norm(torch.relu(x), [7], w)

    def ours(x):
        y, saved = ops.relu(x)
        return ops.keep_input(F.layer_norm(y, [7], w), y, saved)

    check(eager, ours, [values((3, 4, 5, 7), dtype, "specials", layout)])


def test_a_handle_of_another_value_is_not_taken():
    x = values((3, 4, 5, 7)).requires_grad_()
    other = ops.bitmap(torch.relu(values((3, 4, 5, 7), seed=9)))
    y = ops.keep_input(F.layer_norm(x, [7]), x, other)
    expected = torch.autograd.grad(F.layer_norm(x, [7]).pow(2).sum(), x)[0]
    assert torch.equal(torch.autograd.grad(y.pow(2).sum(), x)[0], expected)
    assert other.nbytes() == 0


def test_the_handle_is_let_go_after_backward():
    x = values((8, 64)).requires_grad_()
    y, saved = ops.relu(x)
    loss = ops.keep_input(F.layer_norm(y, [64]), y, saved).sum()
    del y
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
