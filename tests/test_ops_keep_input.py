"""The operator that keeps by a handle the input that an op of eager's saves."""

import pytest
import torch
import torch.nn.functional as F
from _bits import LAYOUTS, check, values

ops = torch.ops.fxpass


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_keep_input(dtype, layout):
    w = torch.ones(7, dtype=dtype)

    def eager(x):
        return F.layer_norm(torch.relu(x), [7], w)

    def ours(x):
        y, saved = ops.relu(x)
        return ops.keep_input(F.layer_norm(y, [7], w), y, saved)

    check(eager, ours, [values((3, 4, 5, 7), dtype, "specials", layout)])


def test_a_handle_of_another_value_is_not_taken():
    x = values((3, 4, 5, 7)).requires_grad_()
    other = ops.bitmap(torch.relu(values((3, 4, 5, 7), seed=9)))
    y = ops.keep_input(F.layer_norm(x, [7]), x, other)
    expected = torch.autograd.grad(F.layer_norm(x, [7]).pow(2).sum(), x)[0]
    assert torch.equal(torch.autograd.grad(y.pow(2).sum(), x)[0], expected)
    assert other.nbytes() == 0


def test_the_handle_is_let_go_after_backward():
    x = values((8, 64)).requires_grad_()
    y, saved = ops.relu(x)
    loss = ops.keep_input(F.layer_norm(y, [64]), y, saved).sum()
    del y
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
