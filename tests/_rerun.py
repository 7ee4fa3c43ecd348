"""An op whose result is made again, read by a product that shows every bit of it."""

import torch
from _bits import Upstream, check, values

ops = torch.ops.fxpass


def read(y, handle, weight):
    """A reader whose weight's gradient shows every bit of what the handle restores."""
    return ops.mul(y, handle, weight, None)


def again_of(op, rerun):
    """(eager, ours): `op`, then a product with a weight that reads its result in backward."""

    def eager(weight, *tensors):
        return op(*tensors) * weight

    def ours(weight, *tensors):
        handle = rerun(*tensors)
        y = op(*tensors)
        return read(y, ops.bind(handle, y), weight)

    return eager, ours


def check_again(op, rerun, *tensors, layout="contiguous"):
    """Fails unless what `rerun` makes again has the bits of `op`'s result, and is really re-run."""
    result = op(*tensors)
    weight = values(result.shape, result.dtype, layout=layout, seed=8)
    eager, ours = again_of(op, rerun)
    check(eager, ours, [weight, *tensors], upstream=Upstream(layout=layout))
    handle = rerun(*tensors)
    y = op(*tensors)
    bound = ops.bind(handle, y)
    out = read(y, bound, weight.requires_grad_())
    assert bound.recipe().startswith("re-run")
    assert bound.matches(y)
    del out
