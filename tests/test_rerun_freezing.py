"""Networks of known blocks with frozen parts: eager's bits, and no more bytes than eager."""

import pytest
from _blocks import NETWORKS, image, made
from _exact import assert_exact, assert_saves_no_more
from _twins import saved_bytes
from torch import nn

import fxpass


def norms_of(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def freeze_norms(model):
    for bn in norms_of(model):
        bn.eval().requires_grad_(False)


def freeze_trunk(model):
    model[:-1].requires_grad_(False)


def freeze_half(model):
    model[: len(model) // 2 + 1].requires_grad_(False)


def biases_only(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))


def norms_only(model):
    model.requires_grad_(False)
    for bn in norms_of(model):
        bn.requires_grad_()


FREEZE = {
    "norms in eval": freeze_norms,
    "norms in eval, trained": lambda model: [bn.eval() for bn in norms_of(model)],
    "trunk": freeze_trunk,
    "half": freeze_half,
    "all but biases": biases_only,
    "all but norms": norms_only,
    "all but norms, in eval": lambda model: [norms_only(model), model.eval()],
    "all": lambda model: model.requires_grad_(False),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("freeze", FREEZE)
def test_frozen_parts(name, freeze):
    model = made(name)
    FREEZE[freeze](model)
    compiled = fxpass.compile(model)
    # Copies of batch norms' vectors: what eager keeps by reference.
    vectors = sum(4 * bn.num_features * 4 for bn in norms_of(model))
    for needs_gradient in (False, True):
        x = image().detach().requires_grad_(needs_gradient)
        assert_exact(model, x, steps=3 if needs_gradient else 1, compiled=compiled)
        assert_saves_no_more(model, compiled, x, slack=vectors)


@pytest.mark.parametrize("name", ["residual", "dense", "squeeze-excite"])
def test_freezing_after_compile(name):
    model, x = made(name), image()
    compiled = fxpass.compile(model)
    whole = saved_bytes(compiled, x)
    freeze_trunk(model)
    assert saved_bytes(compiled, x.detach()) < 0.1 * whole
    assert saved_bytes(compiled, x.detach()) <= saved_bytes(model, x.detach())
