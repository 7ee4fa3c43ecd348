"""Hooks on containers and on every module: around compiled parts, as in eager."""

import pytest
import torch
from _hooked import REGISTER, Log, Logged
from _twins import Net, Twins, X, assert_same, operators
from torch import nn
from torch.nn.modules import module as nn_module


class Nested(nn.Sequential):
    def __init__(self):
        block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        super().__init__(block, nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


@pytest.mark.parametrize("kind", REGISTER)
def test_a_hook_on_a_container_is_a_boundary_and_its_children_stay_compiled(kind):
    twins = Logged(Nested)
    twins.step()
    whole = operators(twins.compiled)
    handles = twins.hook(REGISTER[kind], "0")
    for _ in range(2):
        twins.step()
    twins.check_logs(at_least=2)
    outer, inner = operators(twins.compiled), twins.compiled._fxpass_unit.child(twins.compiled[0])
    # The container returns its last activation, which stays dense there.
    assert outer == ["conv2d", "relu", "linear"]
    assert "fxpass.relu" in inner.latest().program.source
    assert inner.latest().program.source.count("fxpass.conv2d") == 2
    for handle in handles:
        handle.remove()
    twins.step()
    assert operators(twins.compiled) == whole


def test_a_hook_on_a_container_replaces_its_result():
    twins = Twins(Nested)
    twins.each(lambda m: m[0].register_forward_hook(lambda m, args, out: out * 0.5))
    twins.each(lambda m: m[0].register_forward_pre_hook(lambda m, args: (args[0] + 1,)))
    for _ in range(2):
        twins.step()


# ---- global hooks ------------------------------------------------------------------------------

GLOBAL = {
    "forward": nn_module.register_module_forward_hook,
    "forward pre": nn_module.register_module_forward_pre_hook,
    "backward": nn_module.register_module_full_backward_hook,
    "backward pre": nn_module.register_module_full_backward_pre_hook,
}


@pytest.mark.parametrize("kind", GLOBAL)
@pytest.mark.parametrize("make", [Net, Nested])
def test_a_global_hook_sees_every_module(kind, make):
    twins = Logged(make)
    twins.step()
    log = {}
    for model in (twins.eager, twins.compiled):
        log[model] = Log()
        handle = GLOBAL[kind](log[model])
        try:
            torch.manual_seed(1)
            for _ in range(2):
                model(X.clone().requires_grad_()).sum().backward()
        finally:
            handle.remove()
    eager, compiled = log[twins.eager].entries, log[twins.compiled].entries
    assert len(eager) >= 10
    assert [name for name, _ in eager] == [name for name, _ in compiled]
    for (_, expected), (_, found) in zip(eager, compiled, strict=True):
        assert_same(expected, found)
    twins.each(lambda m: m.zero_grad())
    twins.step()
