"""Handles that make a value again from others, and what becomes of those that do not fit."""

import pytest
import torch
import torch.nn.functional as F
from _bits import DTYPES, check, values
from _rerun import ops, read


def chained(x, w, v, *, ours):
    """relu, sum, silu, concatenation, pool: each made again from the one before, x alone kept."""
    if not ours:
        y = torch.relu(x) * 2 + x
        z = torch.cat([F.silu(y), x], 1)
        return z * w, F.max_pool2d(z, 2) * v, y * y
    r, s = ops.relu(x)
    t = r * 2
    s = ops.bind(ops.rerun_add(r, s, False, r, s, False), t)  # 2 r as r + r: the same bits
    sy = ops.rerun_add(t, s, False, x, None, True)
    y = t + x
    sy = ops.bind(sy, y)
    sa = ops.rerun_activation(y, sy, "silu", [], False)
    a = ops.activation(y, sy, "silu", [])
    sa = ops.bind(sa, a)
    sz = ops.rerun_cat([a, x], [sa, None], 1)
    z = torch.cat([a, x], 1)
    sz = ops.bind(sz, z)
    product = ops.mul(z, sz, w, None)  # in eager's order: so are gradients summed
    sp = ops.rerun_max_pool2d(z, sz, [2], [2])
    p = ops.max_pool2d(z, [2])
    sp = ops.bind(sp, p)
    return product, ops.mul(p, sp, v, None), ops.mul(y, sy, y, sy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["normal", "specials", "edges"])
def test_recipes_nest(dtype, kind):
    tensors = [values(s, dtype, kind, seed=1) for s in ((2, 3, 6, 6), (2, 6, 6, 6), (2, 6, 3, 3))]
    check(lambda *t: chained(*t, ours=False), lambda *t: chained(*t, ours=True), tensors)


def test_a_handle_restores_nothing_without_its_inputs():
    x = values((2, 3)).requires_grad_()
    for handle in (
        ops.rerun_add(x, None, False, x, None, True),
        ops.rerun_activation(x, None, "silu", [], False),
        ops.rerun_contiguous(x, None, False),
    ):
        y = x + x
        bound = ops.bind(handle, y)
        out = read(y, bound, torch.ones(2, 3, requires_grad=True))
        assert bound.nbytes() == 0
        assert bound.recipe() == "dense"
        del out


def test_a_bound_handle_that_does_not_fit_gives_way():
    x, other = values((2, 3)).requires_grad_(), torch.ones(2, 3)
    handle = ops.rerun_add(x, None, True, x, None, True)
    fallback = ops.bitmap(x)
    meta = torch.empty(2, 3, device="meta")
    assert not ops.bind(handle, meta, None).matches(x)
    assert ops.bind(handle, meta, fallback).matches(x)
    bound = ops.bind(handle, other)
    assert bound.matches(other)
    assert not bound.matches(x)


def test_a_result_written_to_after_its_handle_was_bound():
    w = values((2, 3)).requires_grad_()
    x = values((2, 3)).requires_grad_()
    y = x + x
    bound = ops.bind(ops.rerun_add(x, None, True, x, None, True), y)
    out = read(y, bound, w)
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_an_input_kept_dense_that_is_written_to_raises():
    # Ours only: such a plan is made only where somebody else keeps that input as well.
    w, x = values((2, 3)).requires_grad_(), values((2, 3)).requires_grad_()
    given = x * 1
    handle = ops.rerun_add(given, None, True, given, None, True)
    y = given + given
    out = read(y, ops.bind(handle, y), w)
    with torch.no_grad():
        given.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
