"""Layer, group and instance norm: what is kept of their input and output."""

import pytest
import torch
import torch.nn.functional as F
from _between import KINDS, SHAPE, Between, norm_of, with_weight
from _bits import values
from _exact import assert_exact, assert_saves_no_more, kept
from _norms import fill_parameters
from _twins import all_operators, saved_bytes
from torch import nn

import fxpass

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
