"""What is made again lives no longer than needed, however backward is called or fails."""

import contextlib

import pytest
import torch
from _bits import bits, values
from _blocks import NETWORKS, image, made
from _chain import Stop, flush, stop
from _exact import assert_nothing_left

import fxpass


def leaves(model):
    return [image(), *model.parameters()]


def some_inputs(model):
    for chosen in (slice(0, 1), slice(1, 2), slice(-2, None), slice(3, None, 4)):
        inputs = leaves(model)
        torch.autograd.grad(model(inputs[0]).sum(), inputs[chosen])


def raises_in_the_middle(model):
    inputs = leaves(model)
    middle = list(model.parameters())[len(inputs) // 2]
    hook = middle.register_hook(stop)
    with contextlib.suppress(Stop):
        torch.autograd.grad(model(inputs[0]).sum(), inputs)
        raise AssertionError("nothing was raised")
    hook.remove()
    flush()


def retained(model):
    inputs = leaves(model)
    loss = model(inputs[0]).sum()
    for retain in (True, True, False):
        torch.autograd.grad(loss, inputs, retain_graph=retain)


def several_forwards(model):
    inputs = leaves(model)
    losses = [model(inputs[0] * i).sum() for i in (1, 2, 3)]
    for i in (1, 2, 0):
        torch.autograd.grad(losses[i], inputs)


def no_backward(model):
    model(image())


def retained_and_dropped(model):
    inputs = leaves(model)
    torch.autograd.grad(model(inputs[0]).sum(), inputs, retain_graph=True)


USES = [
    some_inputs, raises_in_the_middle, retained, several_forwards, no_backward,
    retained_and_dropped,
]  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_left_alive(name):
    model = made(name)
    compiled = fxpass.compile(model)
    for use in USES:
        assert_nothing_left(model, use=use)
        assert_nothing_left(compiled, use=use)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_kept_is_gone_after_backward_with_the_loss_still_held(name):
    compiled = fxpass.compile(made(name))
    inputs = leaves(compiled)
    compiled(inputs[0])
    with fxpass.memory.track() as memory:
        loss = compiled(inputs[0]).sum()
        torch.autograd.grad(loss, inputs)
        assert memory.live_bytes == loss.nbytes


def gradients(use_gradients, model):
    torch.manual_seed(3)
    return [[bits(g).tolist() for g in grads if g is not None] for grads in use_gradients(model)]


def partial_gradients(model):
    for start in (0, 1, 4):
        inputs = leaves(model)
        out = model(inputs[0])
        grad = values(out.shape, seed=start)
        yield torch.autograd.grad(out, inputs[start::3], grad)


def repeated_gradients(model):
    inputs = leaves(model)
    out = model(inputs[0])
    for seed in (1, 2, 1):
        grad = values(out.shape, seed=seed)
        yield torch.autograd.grad(out, inputs[seed:], grad, retain_graph=True)


def interleaved_gradients(model):
    inputs = leaves(model)
    outs = [model(inputs[0] * i) for i in (1, 2, 3)]
    for i in (1, 2, 0):
        yield torch.autograd.grad(outs[i], inputs, values(outs[i].shape, seed=i))


def gradients_after_an_error(model):
    inputs = leaves(model)
    out = model(inputs[0])
    hook = list(model.parameters())[2].register_hook(stop)
    with contextlib.suppress(Stop):
        torch.autograd.grad(out.sum(), inputs, retain_graph=True)
    hook.remove()
    flush()
    yield torch.autograd.grad(out, inputs, values(out.shape))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "use", [partial_gradients, repeated_gradients, interleaved_gradients, gradients_after_an_error]
)
def test_gradients_of_unusual_backwards(name, use):
    eager, ours = made(name), fxpass.compile(made(name))
    assert gradients(use, eager) == gradients(use, ours)
    assert all(torch.equal(a, b) for a, b in zip(eager.buffers(), ours.buffers(), strict=True))


def test_a_backward_twice_raises_as_in_eager():
    for name in NETWORKS:
        loss = fxpass.compile(made(name))(image()).sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
