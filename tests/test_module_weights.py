"""Weights computed by torch.nn.utils, from hooks and properties, and those that come late."""

import pytest
import torch
from _hooked import OPERATORS
from _twins import Twins, X, assert_same, bits, operators, saved_bytes
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fxpass


def pruned(m):
    prune.l1_unstructured(m.conv2, "weight", amount=0.5)
    prune.random_unstructured(m.conv2, "bias", amount=0.3)
    prune.ln_structured(m.head, "weight", amount=0.4, n=2, dim=1)


def no_longer_pruned(m):
    for name in ("weight", "bias"):
        prune.remove(m.conv2, name)


class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("change", "back"),
    [
        (pruned, no_longer_pruned),
        (
            lambda m: nn.utils.weight_norm(m.conv2),
            lambda m: nn.utils.remove_weight_norm(m.conv2),
        ),
        (
            lambda m: nn.utils.spectral_norm(m.conv2),
            lambda m: nn.utils.remove_spectral_norm(m.conv2),
        ),
        (
            lambda m: parametrizations.weight_norm(m.conv2),
            lambda m: parametrize.remove_parametrizations(m.conv2, "weight"),
        ),
        (
            lambda m: parametrizations.spectral_norm(m.conv2),
            lambda m: parametrize.remove_parametrizations(m.conv2, "weight"),
        ),
        (
            lambda m: parametrize.register_parametrization(m.head, "weight", Doubled()),
            lambda m: parametrize.remove_parametrizations(m.head, "weight"),
        ),
    ],
    ids=["prune", "weight_norm", "spectral_norm", "new weight_norm", "new spectral_norm", "own"],
)
def test_weights_computed_by_torch_nn_utils(change, back):
    twins = Twins()
    twins.step()

    def seeded(function):
        def run(m):
            torch.manual_seed(4)
            function(m)

        return run

    twins.each(seeded(change))
    for _ in range(3):
        twins.step()
    assert operators(twins.compiled) == OPERATORS
    twins.each(lambda m: m.eval())
    twins.step()
    twins.each(lambda m: m.train())
    twins.each(seeded(back))
    for _ in range(2):
        twins.step()
    assert operators(twins.compiled) == OPERATORS


def test_compile_runs_no_parametrization():
    twins = Twins(lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)))
    assert_same(bits(dict(twins.eager.state_dict())), bits(dict(twins.compiled.state_dict())))
    for _ in range(2):
        twins.step()


def test_a_pruned_network_saves_as_little():
    twins = Twins()
    twins.step()
    before = saved_bytes(twins.compiled, X)
    twins.each(lambda m: prune.l1_unstructured(m.conv2, "weight", amount=0.5))
    twins.step()
    masked_weight = 4 * twins.compiled.conv2.weight.numel()
    assert saved_bytes(twins.compiled, X) <= before + 2 * masked_weight


def test_lazy_modules():
    class Lazy(nn.Sequential):
        def __init__(self):
            super().__init__(nn.LazyConv2d(4, 3), nn.ReLU(), nn.LazyConv2d(4, 3), nn.ReLU())
            self.append(nn.Flatten()).append(nn.LazyLinear(2))

    torch.manual_seed(0)
    twins = Twins.__new__(Twins)
    twins.eager = Lazy()
    twins.compiled = fxpass.compile(Lazy())
    for model in (twins.eager, twins.compiled):
        torch.manual_seed(0)
        model(X)
    for _ in range(2):
        twins.step()
    assert operators(twins.compiled) == ["conv2d", "relu", "conv2d", "relu", "linear"]
