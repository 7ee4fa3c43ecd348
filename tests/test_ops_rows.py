"""Softmax2d, Softmin and Tanhshrink: ops that keep nothing of what they read."""

import pytest
import torch
import torch.nn.functional as F
from _bits import values
from _exact import assert_exact, kept
from torch import nn

import fxpass
from fxpass.plan import Recipe

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OPS = {
    "Softmax2d": nn.Softmax2d(),
    "Softmin": nn.Softmin(1),
    "softmin of another dtype": lambda x: F.softmin(x, -1, dtype=torch.float64).to(x.dtype),
    "Tanhshrink": nn.Tanhshrink(),
    "tanhshrink": F.tanhshrink,
}


class Net(nn.Module):
    """A convolution, a ReLU or batch norm and ReLU, the op, a convolution."""

    def __init__(self, op, norm=False):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.op = op

    def forward(self, x):
        return self.second(self.op(F.relu(self.norm(self.first(x)))))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_exact(op, dtype, norm):
    for layout in ("contiguous", "channels_last"):
        for kind in ("normal", "edges"):
            x = values((2, 4, 5, 7), dtype, kind, layout).requires_grad_()
            assert_exact(Net(OPS[op], norm).to(dtype), x, steps=2, note=(layout, kind))


@pytest.mark.parametrize("op", OPS)
def test_what_they_read_is_not_kept(op):
    recipe = fxpass.compile(Net(OPS[op])).plan.recipe("relu")
    # Of the bitmap the result of Softmax2d is made again.
    assert recipe is (Recipe.BITMAP if op == "Softmax2d" else Recipe.MASK)


def test_what_is_kept():
    x = values((8, 4, 32, 32))
    eager, ours = kept(Net(nn.Softmin(1)), x)
    assert (eager, ours) == pytest.approx((2.25, 1.28), abs=0.011)  # result and mask; the output
    eager, ours = kept(Net(nn.Tanhshrink()), x)
    assert (eager, ours) == pytest.approx((3.25, 2.28), abs=0.011)
    # The result is made again of what the batch norm keeps.
    assert fxpass.compile(Net(nn.Softmax2d(), norm=True)).plan.recipe("op") is Recipe.RERUN
    eager, ours = kept(Net(nn.Softmax2d(), norm=True), x)
    assert (eager, ours) == pytest.approx((3.25, 1.28), abs=0.011)


def test_softmax2d_of_a_vector_is_eagers_error():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Softmax2d())
    for either in (model, fxpass.compile(model)):
        with pytest.raises(ValueError, match="expected input to be 3D or 4D"):
            either(torch.ones(2, 4))
