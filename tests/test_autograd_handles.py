"""Handles that do not belong, and payloads that were damaged."""

import pytest
import torch
import torch.nn.functional as F
from _bits import check, values

ops = torch.ops.fxpass


@pytest.mark.parametrize(
    "kind", ["other", "shifted", "larger", "other dtype", "dense", "freed", "of pad"]
)
def test_a_foreign_handle_means_dense(kind):
    def handle_for(y):
        other = torch.zeros_like(y.detach())
        return {
            "other": lambda: ops.bitmap(other),
            "shifted": lambda: ops.bitmap(y.detach().flatten()[1:]),
            "larger": lambda: ops.bitmap(y.detach()[:1]),
            "other dtype": lambda: ops.bitmap(y.detach().view(torch.float16)),
            "dense": lambda: ops.relu(torch.zeros(3, dtype=torch.int64))[1],
            "freed": lambda: ops.bitmap(y.detach() * 1),
            "of pad": lambda: ops.pad(other, ops.bitmap(other), [1, 1])[1],
        }[kind]()

    def conv(x, w):
        y = torch.relu(x)
        return ops.conv2d(y, handle_for(y), w)

    def linear(x, w):
        y = torch.relu(x)
        return ops.linear(y, handle_for(y), w.flatten(2)[0, :, :8])

    def pad(x, w):
        y = torch.relu(x)
        return ops.conv2d(*ops.pad(y, handle_for(y), [1, 1]), w)

    tensors = [values((2, 4, 8, 8)), values((4, 4, 3, 3))]
    check(lambda x, w: F.conv2d(x.relu(), w), conv, tensors)
    check(lambda x, w: F.linear(x.relu(), w.flatten(2)[0, :, :8]), linear, tensors)
    check(lambda x, w: F.conv2d(F.pad(x.relu(), [1, 1]), w), pad, tensors)


def test_a_handle_of_another_class_is_refused():
    with pytest.raises(RuntimeError):
        ops.conv2d(torch.ones(1, 1, 4, 4), torch.ones(3), torch.ones(1, 1, 2, 2))
    with pytest.raises(RuntimeError):
        ops.linear(torch.ones(2, 2), object(), torch.ones(2, 2))


DAMAGE = {
    "cut": lambda t: t[: len(t) // 2].clone(),
    "grown": lambda t: torch.cat([t, t]),
    "inverted": lambda t: ~t if t.dtype == torch.int64 else t,
    "another type": lambda t: t.double().clone(),
    "nothing": lambda t: t.new_empty(0),
    "strided": lambda t: t.repeat_interleave(2)[::2] if t.dim() == 1 else t,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("op", ["conv2d", "relu", "max_pool2d", "relu_max_pool2d"])
def test_a_payload_that_a_hook_damaged_raises(op, damage):
    def step(x, w):
        if op == "conv2d":
            y, handle = ops.relu(x)
            return ops.conv2d(y.detach(), handle, w)
        result = getattr(ops, op)(x, *([[2]] if "pool" in op else []))
        return result[0] if isinstance(result, tuple) else result

    def packed(tensor):
        own = tensor.dim() == 1 and tensor.dtype in (torch.int64, torch.float32)
        return DAMAGE[damage](tensor) if own else tensor

    x, w = values((2, 3, 11, 11), seed=3).requires_grad_(), values((4, 3, 3, 3)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(packed, lambda t: t):
        out = step(x, w)
    if (op, damage) in HARMLESS:
        out.sum().backward()
        return
    with pytest.raises(RuntimeError):
        out.sum().backward()


# Flipped bits of a mask are another mask: no reader can tell.
HARMLESS = {("relu", "inverted")}
