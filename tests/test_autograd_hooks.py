"""Hooks, checkpoints, and gradients that somebody holds."""

import contextlib

import pytest
import torch
from _bits import check, values
from _chain import eager, ours, parameters
from torch.utils.checkpoint import checkpoint

from fxpass import memory

ops = torch.ops.fxpass


@contextlib.contextmanager
def seen_payloads(seen):
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (seen.append(t.nbytes), t.clone())[1], lambda t: t
    ):
        yield


def test_saved_tensors_hooks_see_every_payload():
    seen, kept = [], []

    def hooked(*tensors):
        with memory.track() as tracked, seen_payloads(seen):
            loss = ours(*tensors)
            kept.append(tracked.live_bytes)
        return loss

    check(eager, hooked, [t.detach() for t in parameters()])
    assert sum(seen) == pytest.approx(kept[-1], rel=0.2)


def test_save_on_cpu():
    def saved(step):
        def run(*tensors):
            with torch.autograd.graph.save_on_cpu():
                return step(*tensors)

        return run

    check(eager, saved(ours), [t.detach() for t in parameters()])


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant):
    def recomputed(step):
        def run(*tensors):
            return checkpoint(step, *tensors, use_reentrant=reentrant)

        return run

    tensors = [t.detach() for t in parameters()]
    check(recomputed(eager), recomputed(ours), tensors)
    check(eager, recomputed(ours), tensors)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_keeps_no_payload(reentrant):
    tensors = parameters()
    with memory.track() as tracked:
        loss = checkpoint(ours, *tensors, use_reentrant=reentrant, preserve_rng_state=False)
        assert tracked.live_bytes <= 64
        loss.backward()
        assert tracked.live_bytes <= 64 + sum(t.nbytes for t in tensors)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_mode_names_the_operator():
    x = values((2, 2, 6, 6), kind="specials").requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=False):
        ops.relu(x)[0].sum().backward()
    assert ops.relu(x)[0].grad_fn.name() == "fxpass::relu_backward"


def test_a_gradient_that_somebody_holds_is_not_written():
    # relu's backward may write in place; whoever kept the gradient must find it as it was.
    x = values((64, 64)).requires_grad_()
    kept = {}

    def arriving(retain):
        y, _ = ops.relu(x)
        retain(y)
        (y * 3).backward(torch.ones(64, 64))
        return y

    y = arriving(lambda y: y.retain_grad())
    assert bool((y.grad == 3).all())
    arriving(lambda y: y.register_hook(lambda g: kept.__setitem__("hook", g)))
    assert bool((kept["hook"] == 3).all())
    arriving(lambda y: y.grad_fn.register_prehook(lambda gs: kept.__setitem__("prehook", gs)))
    assert bool((kept["prehook"][0] == 3).all())
    arriving(
        lambda y: y.grad_fn.register_hook(lambda out, into: kept.__setitem__("post", (out, into)))
    )
    assert bool((kept["post"][1][0] == 3).all())
    mine = torch.full((64, 64), 3.0)
    y, _ = ops.relu(x)
    y.backward(mine)
    assert bool((mine == 3).all())
    y, _ = ops.relu(x)
    y.backward(mine.view(64, 64))  # the tensor dies, its memory does not
    assert bool((mine == 3).all())
    two = ops.relu(x)[0] + ops.relu(-x)[0]  # one gradient for two
    (gradient,) = torch.autograd.grad(two, x, mine)
    assert torch.equal(gradient, 3 * x.detach().sign())


def test_a_gradient_in_memory_of_numpy_is_not_written():
    numpy = pytest.importorskip("numpy")
    array = numpy.full((64, 64), 3, dtype=numpy.float32)

    class FromNumpy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return torch.from_numpy(array)

    x = values((64, 64)).requires_grad_()
    FromNumpy.apply(ops.relu(x)[0]).sum().backward()
    assert bool((array == 3).all())


def test_a_gradient_of_nobody_is_reused():
    x = values((256, 256)).requires_grad_()

    def peak():
        loss = (ops.relu(x)[0] * 2).sum()
        with memory.track() as tracked:
            torch.autograd.grad(loss, x)
        return tracked.peak_bytes

    assert peak() < 1.5 * x.nbytes
