"""Hooks of all kinds on a compiled module: called as eager calls them, their op still rewritten."""

import pytest
import torch.nn.functional as F
from _hooked import OPERATORS, REGISTER, Logged
from _twins import Twins, X, assert_same, bits, operators, saved_bytes
from torch import nn

# A hook sees the value between the batch norm and the ReLU, or the ReLU and the pool.
BN_HOOKED = ["conv2d", "batch_norm", "relu", *OPERATORS[2:]]
RELU_HOOKED = [*BN_HOOKED[:4], "relu", "max_pool2d", *OPERATORS[4:]]
POOL_HOOKED = [*OPERATORS[:3], "relu", "max_pool2d", *OPERATORS[4:]]
HOOKED = {"bn": BN_HOOKED, "relu": RELU_HOOKED, "pool": POOL_HOOKED}


@pytest.mark.parametrize("kind", REGISTER)
@pytest.mark.parametrize("path", ["", "conv1", "bn", "relu", "conv2", "pool", "drop", "head"])
def test_a_hook_on_a_module_is_called_as_in_eager_and_its_op_stays_rewritten(kind, path):
    twins = Logged()
    twins.step()
    handles = twins.hook(REGISTER[kind], path)
    for _ in range(2):
        twins.step()
    twins.check_logs(at_least=2)
    assert operators(twins.compiled) == HOOKED.get(path, OPERATORS)
    for handle in handles:
        handle.remove()
    twins.step()
    twins.check_logs(at_least=2)
    assert len(twins.logs[id(twins.eager)].entries) == len(twins.logs[id(twins.compiled)].entries)


def test_memory_stays_low_with_a_hook_on_every_relu_and_conv():
    class Deep(nn.Sequential):
        def __init__(self):
            layers = [nn.Conv2d(3, 8, 3)]
            for _ in range(5):
                layers += [nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
            super().__init__(*layers)

    twins = Logged(Deep)
    twins.step()
    eager, before = saved_bytes(twins.eager, X), saved_bytes(twins.compiled, X)
    for path in range(11):
        for register in REGISTER.values():
            register(twins.compiled[path], lambda *_: None)
    # The hooks on gradients put a node, but no values, before and after each module.
    assert saved_bytes(twins.compiled, X) == before < 0.7 * eager
    assert operators(twins.compiled).count("relu") == 5


@pytest.mark.parametrize("path", ["relu", "conv1", "conv2", "pool", "head", "bn"])
@pytest.mark.parametrize(
    "change",
    [
        lambda m, args, out: out * 2,
        lambda m, args, out: out.clone(),
        lambda m, args, out: F.relu(out - 0.5),
        lambda m, args, out: out.view_as(out),
        lambda m, args, out: None,
    ],
)
def test_a_hook_that_replaces_the_result(path, change):
    twins = Twins()
    twins.step()
    twins.each(lambda m: m.get_submodule(path).register_forward_hook(change))
    for _ in range(2):
        twins.step()
    assert "conv2d" in operators(twins.compiled)


@pytest.mark.parametrize("path", ["relu", "conv1", "conv2", "pool", "head"])
def test_a_pre_hook_that_replaces_the_input(path):
    twins = Twins()
    for change in (lambda m, args: (args[0] * 2,), lambda m, args: args[0].clone()):
        twins.each(lambda m, c=change: m.get_submodule(path).register_forward_pre_hook(c))
        twins.step()


@pytest.mark.parametrize("path", ["conv1", "bn", "head"])
def test_a_hook_that_changes_the_result_in_place(path):
    twins = Twins()
    twins.each(
        lambda m: m.get_submodule(path).register_forward_hook(lambda m, args, out: out.mul_(2))
    )
    for _ in range(2):
        twins.step()


def test_a_hook_that_changes_a_relus_result_in_place_raises_as_in_eager():
    twins = Twins()
    twins.each(lambda m: m.relu.register_forward_hook(lambda m, args, out: out.mul_(2)))
    for model in (twins.eager, twins.compiled):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            model(X).sum().backward()


def test_a_hook_that_keeps_the_result():
    twins = Twins()
    kept = {True: [], False: []}
    for model in (twins.eager, twins.compiled):
        store = kept[model is twins.eager]
        model.relu.register_forward_hook(lambda m, args, out, store=store: store.append(out))
    twins.step()
    assert len(kept[True]) == 2
    assert_same(bits(kept[True]), bits(kept[False]))
    twins.step(loss_fn=lambda out: out.sum())
    extra = [out.detach().sum() for out in kept[True]]
    assert len(extra) == 4


def test_a_hook_that_changes_the_gradient():
    twins = Twins()
    twins.each(lambda m: m.conv2.register_full_backward_hook(lambda m, grads, _: (grads[0] * 0.5,)))
    twins.each(lambda m: m.relu.register_full_backward_pre_hook(lambda m, grads: (grads[0] * 3,)))
    for _ in range(2):
        twins.step()
    assert operators(twins.compiled).count("relu") == 2
