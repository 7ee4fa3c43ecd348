"""Ops that stay eager's own and keep by a handle what they save: softmax, sigmoid, PReLU, GLU."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from _bits import LAYOUTS, MOSTLY_FP32, check, examples, values
from _exact import LOSSES, assert_exact, assert_saves_no_more, kept
from _norms import CONVS, NORMS, crashes_without_gradient, fate
from _twins import Twins, all_operators
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import FILLS
from torch import nn

import fxpass

ops = torch.ops.fxpass

# Name -> (module or function by channels, whether it saves its input).
OPS = {
    "sigmoid": (lambda c: nn.Sigmoid(), False),
    "F.sigmoid": (lambda c: F.sigmoid, False),
    "x.sigmoid()": (lambda c: lambda x: x.sigmoid(), False),
    "tanh": (lambda c: nn.Tanh(), False),
    "torch.tanh": (lambda c: torch.tanh, False),
    "softmax": (lambda c: nn.Softmax(1), False),
    "softmax of the last": (lambda c: nn.Softmax(-1), False),
    "F.softmax": (lambda c: lambda x: F.softmax(x, dim=2), False),
    "x.softmax()": (lambda c: lambda x: x.softmax(0), False),
    "log_softmax": (lambda c: nn.LogSoftmax(1), False),
    "torch.log_softmax": (lambda c: lambda x: torch.log_softmax(x, -1), False),
    "prelu": (lambda c: nn.PReLU(), True),
    "prelu of channels": (lambda c: nn.PReLU(c, init=-0.3), True),
    "glu": (lambda c: nn.Sequential(Twice(), nn.GLU(1)), True),
    "F.glu": (lambda c: lambda x: torch.cat([F.glu(x, -1)] * 2, -1), True),
}
RERUN = {
    "sigmoid": "rerun_activation",
    "tanh": "rerun_activation",
    "softmax": "rerun_softmax",
    "prelu": "rerun_prelu",
    "glu": "rerun_glu",
}


def rerun_of(name):
    return next(op for word, op in RERUN.items() if word in name)


class Twice(nn.Module):
    def forward(self, x):
        return torch.cat([x, x], 1)


BEFORE = {
    "batch norm": lambda m, x: m.norm(x),
    "relu": lambda m, x: torch.relu(x),
    "copy": lambda m, x: F.avg_pool1d(x.flatten(2), 1).view(x.shape),
    "group norm of relu": lambda m, x: m.group(torch.relu(x)),
    "part of relu": lambda m, x: torch.relu(torch.cat([x, x], 1))[:, 1 : 1 + x.shape[1]],
    "nothing": lambda m, x: x,
}


class Between(nn.Module):
    """An op between what comes before it and a convolution, or a product, that reads its result."""

    def __init__(self, name, channels, dims=2, before="relu", reader="conv"):
        super().__init__()
        if before == "batch norm":
            self.norm = NORMS[dims](channels)
        elif before == "group norm of relu":
            self.group = nn.GroupNorm(1, channels)
        make, _ = OPS[name]
        self.op = make(channels)
        self.before, self.by_product = BEFORE[before], reader == "product"
        self.reader = CONVS[dims](channels, 3, 1)

    def forward(self, x):
        x = self.before(self, x)
        y = self.op(x)
        return self.reader(x * y if self.by_product else y)


@dataclass
class Case:
    name: str
    shape: tuple
    dtype: torch.dtype
    layout: str
    fill: str
    before: str
    reader: str
    training: bool
    frozen: bool
    needs_gradient: bool
    loss: str


@st.composite
def cases(draw):
    dims = draw(st.sampled_from([2, 2, 1, 3]))
    sizes = [draw(st.sampled_from([1, 2, 4, 7, 8, 17])) for _ in range(dims - 1)]
    # The last even: it is halved.
    shape = (draw(st.sampled_from([2, 3, 5, 1, 0])), draw(st.sampled_from([1, 2, 4, 5])),
             *sizes, draw(st.sampled_from([2, 4, 10, 16])))  # fmt: skip
    return Case(
        draw(st.sampled_from(list(OPS))), shape, draw(st.sampled_from(MOSTLY_FP32)),
        draw(st.sampled_from(["contiguous", "channels_last", *LAYOUTS])),
        draw(st.sampled_from(["normal", "normal", *FILLS])),
        draw(st.sampled_from(list(BEFORE))), draw(st.sampled_from(["conv", "product"])),
        *(draw(st.sampled_from([True, True, False])) for _ in range(3)),
        draw(st.sampled_from(list(LOSSES))),
    )  # fmt: skip


@examples(150)
@given(cases())
@pytest.mark.filterwarnings("ignore")
def test_an_op_between_any_others(case):
    x = values(case.shape, case.dtype, case.fill, case.layout, seed=3)
    kind = "group" if case.before.startswith("group") else ""
    x.requires_grad_(case.needs_gradient or crashes_without_gradient(kind, x))
    torch.manual_seed(0)
    model = Between(case.name, case.shape[1], len(case.shape) - 2, case.before, case.reader)
    model.reader.weight.requires_grad_(not case.frozen)
    model = model.to(case.dtype).train(case.training)
    assert_exact(model, x, steps=2, loss_fn=LOSSES[case.loss], may_raise=True, note=case)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("on_threads", [1, 2])
def test_large_values_on_all_threads(name, on_threads):
    for shape, layout in (((2, 6, 61, 68), "contiguous"), ((4, 33, 30, 32), "channels_last")):
        x = values(shape, layout=layout).requires_grad_()
        model = Between(name, shape[1], before="batch norm")
        compiled = assert_exact(model, x, steps=1, on_threads=on_threads, note=(shape, layout))
        assert rerun_of(name) in all_operators(compiled)


# ---- what is kept ------------------------------------------------------------------------------

SHAPE = (8, 16, 24, 24)
READ = 3 / 16  # the reader's output


@pytest.mark.parametrize("name", [name for name in OPS if name != "F.glu"])
@pytest.mark.parametrize("before", ["batch norm", "relu", "group norm of relu"])
def test_the_result_is_made_again_from_what_is_kept(name, before):
    x = values(SHAPE).requires_grad_()
    eager, ours = kept(nn.Sequential(nn.AvgPool2d(1), Between(name, 16, before=before)), x)
    # The batch norm's input, or the ReLU's bitmap and mask: beside that, nothing.
    expected = 1 if before == "batch norm" else 0.5 + 1 / 32
    assert ours == pytest.approx(expected + READ, abs=0.03)
    assert ours < eager - 0.9


@pytest.mark.parametrize(
    "name", [name for name, (_, saves_input) in OPS.items() if not saves_input]
)
def test_a_result_is_dense_where_its_input_would_be(name):
    # One of the two is kept; to keep the result costs no computation.
    x = values(SHAPE).requires_grad_()
    model = nn.Sequential(nn.Conv2d(16, 16, 1), Between(name, 16, before="nothing"))
    eager, ours = kept(model, x)
    assert eager == ours == pytest.approx(1 + READ, abs=0.01)
    assert not any(n.startswith("rerun") for n in all_operators(fxpass.compile(model)))


def test_a_gate_is_made_again():
    # Gated by what is kept for another reader.
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
            self.last = nn.Conv2d(16, 1, 1)

        def forward(self, x):
            y = self.norm(self.first(x))
            return self.last(y * torch.sigmoid(y) * torch.tanh(y))

    x = values(SHAPE).requires_grad_()
    model = Gate()
    eager, ours = kept(model, x)
    # The norm's input and output, sigmoid, tanh and two products.
    assert eager == pytest.approx(6 + 1 / 16, abs=0.01)
    assert ours == pytest.approx(1 + 1 / 16, abs=0.01)
    assert_exact(model, x)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("frozen", [True, False])
def test_never_more_than_eager(name, before, frozen):
    for reader in ("conv", "product"):
        model = Between(name, 16, before=before, reader=reader)
        model.reader.requires_grad_(not frozen)
        x = values(SHAPE).requires_grad_()
        assert_saves_no_more(model, fxpass.compile(model), x, slack=6 * 16 * 4)


# ---- as any other op ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("seen", ["input", "output"])
def test_a_write_before_backward_raises_as_in_eager(name, seen):
    fates = []
    for make in (lambda m: m, fxpass.compile):
        torch.manual_seed(0)
        found = []
        model = nn.Sequential(nn.BatchNorm2d(4), nn.Identity(), Between(name, 4, before="nothing"))
        place = model[1] if seen == "input" else model[2].reader
        place.register_forward_pre_hook(lambda m, args, found=found: found.append(args[0]))
        compiled = make(model)
        fates.append(fate(compiled, values((3, 4, 6, 8)), lambda m, x, o, f=found: f[-1].mul_(2)))
    assert fates[0] == fates[1]
    expected = seen == "input" and OPS[name][1] and name != "glu"  # that reads a copy of it
    assert (fates[0] == "raises") is (expected or seen == "output")


@pytest.mark.parametrize("name", ["softmax", "prelu", "glu"])
def test_arguments_changed_after_compile(name):
    def change(m):
        op = m.op[1] if name == "glu" else m.op
        if name == "prelu":
            m.op = nn.PReLU(4)
        else:
            op.dim = 2

    twins = Twins(lambda: Between(name, 4, before="batch norm"))
    twins.step(values((3, 4, 6, 8)))
    twins.each(change if name != "glu" else lambda m: setattr(m.op[1], "dim", -3))
    twins.step(values((3, 4, 6, 8)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.softmax(x, 1, dtype=torch.float64).float(),
        lambda x: torch.softmax(x, 1, torch.float64).float(),
        lambda x: x.softmax(dim=-1),
        lambda x: F.softmax(x, 1, 3),
        lambda x: F.log_softmax(x, 1, dtype=torch.float64).float(),
        lambda x: F.prelu(x, torch.sigmoid(x[0, :, 0, 0])),
        lambda x: x.prelu(x.new_tensor([0.3])),
        lambda x: torch.cat([F.glu(x), F.glu(x, 3)], -1),
        lambda x: torch.cat([F.glu(x, dim=1)] * 2, 1),
        lambda x: x.sigmoid_() * 2,
        lambda x: F.softmin(x, 1),
    ],
)
def test_other_spellings(function):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.conv(function(self.norm(x)))

    assert_exact(Model(), values((3, 4, 6, 8)).requires_grad_())


@pytest.mark.filterwarnings("ignore:Implicit dimension")
def test_a_softmax_without_a_dimension_chooses_as_eager_does():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Softmax(), nn.Linear(8, 2))
    assert_exact(model, values((5, 8)).requires_grad_())


# ---- the operators -----------------------------------------------------------------------------

RESULTS = {
    "sigmoid": (torch.sigmoid, lambda x, s: ops.rerun_activation(x, s, "sigmoid", [], True)),
    "tanh": (torch.tanh, lambda x, s: ops.rerun_activation(x, s, "tanh", [], True)),
    "softmax": (lambda x: x.softmax(1), lambda x, s: ops.rerun_softmax(x, s, 1, False, True)),
    "log": (lambda x: x.log_softmax(-1), lambda x, s: ops.rerun_softmax(x, s, -1, True, True)),
}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_keep_result(name, dtype, layout):
    function, rerun = RESULTS[name]

    def ours(x):
        y, saved = ops.relu(x)
        again = rerun(y, saved)
        z = function(y)
        return ops.keep_result(z, y, ops.bind(again, z))

    x = values((3, 4, 5, 6), dtype, "specials", layout)
    check(lambda x: function(torch.relu(x)), ours, [x])


def test_the_result_is_really_given_up():
    x = values((64, 1000)).requires_grad_()
    with fxpass.memory.track() as memory:
        again = ops.rerun_activation(x, None, "tanh", [], True)
        y = x.tanh()
        loss = ops.keep_result(y, x, ops.bind(again, y)).sum()
        del y, again
        assert memory.live_bytes <= loss.nbytes
        loss.backward()
    assert torch.equal(x.grad, torch.autograd.grad(x.tanh().sum(), x)[0])


def test_a_handle_of_another_value_is_not_taken():
    x = values((3, 4)).requires_grad_()
    other = ops.bitmap(torch.relu(values((3, 4), seed=9)))
    y = ops.keep_result(x.sigmoid(), x, other)
    expected = torch.autograd.grad(x.sigmoid().pow(2).sum(), x)[0]
    assert torch.equal(torch.autograd.grad(y.pow(2).sum(), x)[0], expected)
    assert other.nbytes() == 0
