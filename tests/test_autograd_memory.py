"""What the operators keep for backward, and for how long."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from _bits import check, twin, values
from _chain import BOTH, Stop, eager, flush, ours, parameters, stop

from fxpass import memory

ops = torch.ops.fxpass

pytestmark = pytest.mark.usefixtures("no_garbage")


def live_bytes(step, backward):
    """Live bytes after forward and after `backward(loss, tensors)`; the loss is held all along."""
    tensors = parameters()
    flush()
    with memory.track() as tracked:
        loss = step(*tensors)
        forward = tracked.live_bytes
        result = backward(loss, tensors)
        after = tracked.live_bytes
        del result, loss
        for tensor in tensors:
            tensor.grad = None
        flush()
        assert tracked.live_bytes == 0, "something is kept for ever"
    return forward, after


def of_both(backward):
    return {name: live_bytes(step, backward) for name, step in BOTH.items()}


def test_a_payload_is_gone_when_backward_is_over_and_the_loss_still_held():
    found = of_both(lambda loss, tensors: loss.backward())
    assert found["ours"][0] < 0.6 * found["eager"][0]
    gradients = sum(t.nbytes for t in parameters())
    assert found["eager"][1] == found["ours"][1] == gradients + 4


def test_retained_payloads_are_gone_after_the_last_backward():
    def twice(loss, tensors):
        loss.backward(retain_graph=True)
        loss.backward()

    found = of_both(twice)
    assert found["ours"][1] == found["eager"][1]


@pytest.mark.parametrize("wanted", [[0], [1], [2], [3], [4], [2, 3], [3, 4], [0, 4], [1, 2]])
def test_gradients_of_some_inputs_only(wanted):
    found = of_both(lambda loss, ts: torch.autograd.grad(loss, [ts[i] for i in wanted]))
    assert found["ours"][1] <= found["eager"][1]


@pytest.mark.parametrize("where", range(5))
def test_backward_that_raises_in_the_middle(where):
    def failing(loss, tensors):
        hook = tensors[where].register_hook(stop)
        with contextlib.suppress(Stop):  # pytest.raises would keep the gradient in a frame
            loss.backward()
            raise AssertionError
        hook.remove()

    found = of_both(failing)
    assert found["ours"][1] <= found["eager"][1]


@pytest.mark.parametrize(
    "frozen", [[0], [1], [2], [4], [1, 2], [1, 2, 4], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
)
def test_what_no_gradient_needs_is_not_kept(frozen):
    def kept(step):
        tensors = parameters()
        for i in frozen:
            tensors[i].requires_grad_(False)
        with memory.track() as tracked:
            loss = step(*tensors)
            live = tracked.live_bytes
            del loss
        return live

    # A bitmap is at most 1.03 of the dense value; every one of these nets is far below.
    assert kept(ours) <= kept(eager)


def live_of_conv(needs, layers=1):
    x, w = values((4, 8, 32, 32)), values((8, 8, 3, 3))
    tensors = [twin(x, needs[0]), twin(w, needs[1])]
    with memory.track() as tracked:
        y, handle = ops.relu(tensors[0])
        out = ops.conv2d(y, handle, tensors[1])
        del y, handle
        live = tracked.live_bytes - out.nbytes
    return live / x.nbytes


def test_a_convolution_keeps_its_input_for_the_gradient_of_its_weight_only():
    mask = 1 / 32
    assert live_of_conv([False, False]) == 0
    assert live_of_conv([True, False]) == mask
    assert live_of_conv([False, True]) == pytest.approx(0.5 + mask, abs=0.02)
    assert live_of_conv([True, True]) == pytest.approx(0.5 + mask, abs=0.02)  # one mask for both


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_packed(mode):
    tensors = parameters()
    with mode(), memory.track() as tracked:
        y, handle = ops.relu(tensors[0])
        assert tracked.live_bytes == y.nbytes
        conv = ops.conv2d(y, handle, tensors[1])
        assert handle.nbytes() == 0
        pooled = ops.relu_max_pool2d(conv, [2])
        assert tracked.live_bytes == y.nbytes + conv.nbytes + pooled.nbytes
    peaks = {}
    for name, step in BOTH.items():
        with mode(), memory.track() as tracked:
            step(*tensors)
        peaks[name] = tracked.peak_bytes
    assert peaks["ours"] <= peaks["eager"]


def test_a_value_that_is_not_sparse_stays_dense():
    x, w = (
        values((4, 8, 16, 16)).abs_().add_(1).requires_grad_(),
        values((8, 8, 3, 3)).requires_grad_(),
    )
    y, handle = ops.relu(x)
    out = ops.conv2d(y, handle, w)
    assert handle.nbytes() == 0
    check(
        lambda x, w: F.conv2d(x.relu(), w),
        lambda x, w: ops.conv2d(*ops.relu(x), w),
        [x.detach(), w.detach()],
    )
    del out


@pytest.mark.parametrize("keep", ["output", "result", "pooled"])
def test_a_graph_that_was_never_differentiated_is_freed_with_its_output(keep):
    with memory.track() as tracked:
        tensors = parameters()
        y, handle = ops.relu(tensors[0])
        out = ops.conv2d(y, handle, tensors[1])
        pooled = ops.max_pool2d(out, [2])
        last = {"output": out, "result": y, "pooled": pooled}[keep]
        del y, handle, out, pooled, tensors, last
        assert tracked.live_bytes == 0
