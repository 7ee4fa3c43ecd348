"""Norms as any other module: written to, changed and hooked as in eager."""

import pytest
import torch
from _between import KINDS, SHAPE, Between, with_weight
from _bits import values
from _exact import assert_exact
from _norms import fate
from _twins import Twins, all_operators
from torch import nn
from torch.nn.utils import parametrize

import fxpass


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
