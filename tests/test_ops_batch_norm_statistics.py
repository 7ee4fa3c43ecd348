"""Batch norm's running statistics and errors: updated, counted and raised as in eager."""

import pytest
import torch
from _bits import values
from _exact import assert_exact
from _norms import NORMS, Normed, fill_parameters
from _twins import Twins


def buffers(model):
    return {name: b.clone() for name, b in model.named_buffers()}


def same_buffers(a, b):
    a, b = buffers(a), buffers(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_statistics_are_updated_once_a_forward(momentum, activation):
    twins = Twins(lambda: Normed((4, 3, 5, 5), activation, momentum=momentum))
    x = values((4, 3, 5, 5))
    for model in (twins.eager, twins.compiled):
        leaf = x.clone().requires_grad_()
        out = model(leaf)
        after = buffers(model)
        for retain in (True, True, False):  # whatever backward makes again updates nothing
            out.sum().backward(retain_graph=retain)
        assert all(torch.equal(after[name], b) for name, b in model.named_buffers())
    assert same_buffers(twins.eager, twins.compiled)
    assert twins.compiled.bn.num_batches_tracked == 1
    twins.step(x)


def test_several_forwards_before_their_backwards():
    twins = Twins(lambda: Normed((4, 3, 5, 5), "silu"))
    grads = {}
    for model in (twins.eager, twins.compiled):
        outs = [model(values((4, 3, 5, 5), seed=i)) for i in range(3)]
        for out in reversed(outs):
            out.sum().backward()
        grads[model is twins.eager] = [p.grad for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(grads[True], grads[False], strict=True))
    assert same_buffers(twins.eager, twins.compiled)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_statistics_without_gradients(mode):
    twins = Twins(lambda: Normed((4, 3, 5, 5), "relu"))
    with mode():
        for model in (twins.eager, twins.compiled):
            model(values((4, 3, 5, 5)))
    assert same_buffers(twins.eager, twins.compiled)


# ---- errors ------------------------------------------------------------------------------------


def error_of(model, x):
    try:
        model(x)
    except Exception as error:
        return type(error), str(error)
    return None


@pytest.mark.parametrize("dims", NORMS)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_errors_are_eagers_and_count_as_eagers(dims, momentum, activation):
    shape = (2, 3, *[4] * dims)
    twins = Twins(lambda: Normed(shape, activation, reader=False, momentum=momentum))
    twins.step(values(shape))
    wrong = {
        "too few dimensions": ((3,), 1),
        "too many dimensions": ((2, 3, *[4] * (dims + 1)), 1),
        "one value a channel": ((1, 3, *[1] * dims), 2),  # counted before it is seen
        "other channels": ((2, 5, *[4] * dims), 3),
    }
    for name, (sizes, count) in wrong.items():
        x = values(sizes)
        found = [error_of(m, x.clone().requires_grad_()) for m in (twins.eager, twins.compiled)]
        assert found[0] is not None, name
        assert found[0] == found[1], name
        assert twins.compiled.bn.num_batches_tracked == count
        assert same_buffers(twins.eager, twins.compiled), name
    twins.step(values(shape))


def test_one_value_a_channel_is_no_error_in_evaluation():
    for shape in ((1, 3), (1, 3, 1), (1, 3, 1, 1), (1, 3, 1, 1, 1)):
        model = fill_parameters(Normed(shape, "relu")).eval()
        assert_exact(model, values(shape).requires_grad_())


def test_an_eps_that_eager_refuses():
    for eps in (0.0, -1e-3):
        model = Normed((2, 3, 4, 4), "relu", eps=eps)
        assert_exact(model, values((2, 3, 4, 4)).requires_grad_(), may_raise=True)
