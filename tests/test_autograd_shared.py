"""One value, several consumers: restored once, and never kept beyond the backward."""

import contextlib
from itertools import pairwise

import pytest
import torch
from _bits import difference, values
from _chain import Stop, flush, ours, parameters, stop
from _threads import at_once

from fxpass import memory

ops = torch.ops.fxpass

pytestmark = pytest.mark.usefixtures("no_garbage")


def with_consumers(count):
    x = values((4, 8, 32, 32)).requires_grad_()
    weights = [values((8, 8, 3, 3), seed=i).requires_grad_() for i in range(count)]
    y, handle = ops.relu(x)
    return x, weights, [ops.conv2d(y, handle, w, None, [1], [1]) for w in weights]


def allocated(outputs, nbytes, inputs):
    """How often backward allocates a tensor of `nbytes` bytes."""
    total = sum(out.sum() for out in outputs)
    with memory.track(timeline=True) as tracked:
        torch.autograd.grad(total, inputs)
    events = [0, *(event.live_bytes for event in tracked.timeline())]
    return sum(1 for a, b in pairwise(events) if b - a == nbytes)


def test_a_value_is_restored_once_for_all_consumers():
    x = values((4, 8, 32, 33))

    def count(consumers, *, packed):
        weights = [values((4, 8, 3, 3), seed=i).requires_grad_() for i in range(consumers)]
        y, handle = ops.relu(x)
        outs = [ops.conv2d(y, handle if packed else None, w, None, [1], [1]) for w in weights]
        assert (handle.nbytes() > 0) == packed
        del y, handle
        return allocated(outs, x.nbytes, weights)

    for consumers in (1, 2, 4):  # the convolution itself makes copies of that size too
        assert count(consumers, packed=True) == count(consumers, packed=False) + 1


@pytest.mark.parametrize("skipped", [[0], [1], [2], [0, 1], [0, 2], [1, 2]])
def test_a_skipped_consumer_does_not_keep_the_restored_value(skipped):
    _, weights, outs = with_consumers(3)
    total = sum(out.sum() for out in outs)
    del outs
    wanted = [w for i, w in enumerate(weights) if i not in skipped]
    with memory.track() as tracked:
        gradients = torch.autograd.grad(total, wanted)
        assert tracked.live_bytes <= sum(g.nbytes for g in gradients)


def test_a_consumer_that_raises_does_not_keep_the_restored_value():
    _, weights, outs = with_consumers(3)
    weights[1].register_hook(stop)
    total = sum(out.sum() for out in outs)
    del outs
    with memory.track() as tracked:
        with contextlib.suppress(Stop):
            total.backward()
            raise AssertionError
        flush()
        held = sum(w.grad.nbytes for w in weights if w.grad is not None)
        assert tracked.live_bytes <= held
    weights[1]._backward_hooks.clear()


def test_backwards_on_two_threads_over_one_graph():
    tensors = parameters()
    loss = ours(*tensors)
    expected = torch.autograd.grad(loss, tensors, retain_graph=True)
    wrong = []

    def work(_):
        for _ in range(20):
            found = torch.autograd.grad(loss, tensors, retain_graph=True)
            wrong.extend(filter(None, map(difference, expected, found)))

    at_once(2, work)
    assert not wrong
