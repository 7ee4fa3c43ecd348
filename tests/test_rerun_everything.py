"""Convolutions and linear layers run again in backward: the same bits, and nothing is left."""

import pytest
import torch
from _everything_again import everything_again, operators
from _exact import assert_exact, assert_nothing_left, weighted
from _twins import saved_bytes
from hypothesis import event, given, settings
from hypothesis import strategies as st
from strategies import networks
from test_properties import PROFILE, explained, run_all
from torch import nn

import fxpass
from fxpass._oracle import compare


@settings(PROFILE, max_examples=300)
@given(networks(), st.sampled_from([0, 1, 2, 3]))
@pytest.mark.filterwarnings("ignore")
def test_networks_that_keep_next_to_nothing_equal_eager(network, let_go_every):
    made = []

    def compiled(model, inputs):
        made.append(everything_again(model, let_go_every))
        return made[-1]

    first, found = run_all(network, compiled)
    event("raises" if first.error else "trains")
    assert not compare(first, found), explained(network, first, found)


class Bottleneck(nn.Module):
    """Convolutions, norms, a sum, a pool and a linear layer: all kinds of things to run again."""

    def __init__(self, channels=8):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.a, self.bn_a = nn.Conv2d(channels, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.b, self.bn_b = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.c, self.bn_c = nn.Conv2d(4, channels, 1), nn.BatchNorm2d(channels)
        self.fc1, self.fc2 = nn.Linear(channels * 16, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.head(x))
        y = torch.relu(self.bn_a(self.a(x)))
        y = torch.nn.functional.silu(self.bn_b(self.b(y)))
        x = torch.relu(self.bn_c(self.c(y)) + x)
        x = torch.nn.functional.avg_pool2d(x, 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).sin().mul(3).view(2, 3, 8, 8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Bottleneck()


@pytest.mark.parametrize("let_go_every", [0, 1])
def test_a_block_whose_convolutions_are_run_again(model, let_go_every):
    compiled = assert_exact(model, X, compiled=everything_again(model, let_go_every))
    names = operators(compiled)
    assert names.count("rerun_conv2d") >= 3
    assert "rerun_linear" in names
    assert ("hold" in names) == bool(let_go_every)


def test_next_to_nothing_is_kept(model):
    again, free = everything_again(model), fxpass.compile(model)
    x = X.clone().requires_grad_()
    assert saved_bytes(again, x) < saved_bytes(free, x) / 2


def test_nothing_is_left(model):
    def one_step(compiled):
        grads = torch.autograd.grad(weighted(compiled(X)), list(model.parameters()))
        del grads

    def some_gradients(compiled):
        loss = weighted(compiled(X))
        torch.autograd.grad(loss, [model.fc2.weight, model.c.weight])

    compiled = everything_again(model, let_go_every=1)
    for use in (one_step, some_gradients):
        assert_nothing_left(compiled, X, use=use)


def test_a_weight_written_to_before_backward_raises(model):
    compiled = everything_again(model)
    loss = weighted(compiled(X))
    with torch.no_grad():
        model.a.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_bias_written_to_before_backward_changes_nothing(model):
    def gradients(of):
        model.zero_grad()
        bias = model.fc1.bias.detach().clone()
        loss = weighted(of(X))
        with torch.no_grad():
            model.fc1.bias.add_(3)
        loss.backward()
        with torch.no_grad():
            model.fc1.bias.copy_(bias)
        return [p.grad.clone() for p in model.parameters()]

    pairs = zip(gradients(model), gradients(everything_again(model)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_second_backward_of_a_graph_that_is_kept(model):
    compiled = everything_again(model, let_go_every=1)
    loss = weighted(compiled(X))
    first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_statistics_are_updated_once(model):
    compiled = everything_again(model, let_go_every=1)
    weighted(compiled(X)).backward()
    assert model.bn_a.num_batches_tracked == model.bn_c.num_batches_tracked == 1
