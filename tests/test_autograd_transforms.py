"""Forward-mode AD, functional transforms and other devices."""

import pytest
import torch
from _bits import Upstream, check, difference, values
from _chain import ALL, ALL_EAGER, eager, ours, parameters

ops = torch.ops.fxpass

# ---- forward-mode AD and functional transforms ---------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("needs", [True, False])
def test_forward_mode(name, needs):
    def tangent(op):
        def run(x):
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x) * 0.5)
                return torch.autograd.forward_ad.unpack_dual(op(dual)).tangent.detach().clone()

        return run

    check(tangent(ALL_EAGER[name]), tangent(ALL[name]), [values((2, 2, 6, 6))], needs=[needs])


# Under vmap, what makes handles has no rule, and torch's fallback takes no handles: the operator
# that says so first.
NO_VMAP = {
    "relu": "relu",
    "relu_": "relu_",
    "conv2d": "bitmap",
    "conv_transpose2d": "bitmap",
    "linear": "bitmap",
    "pad": "pad",
    "keep_input": "bitmap",
    "keep_result": "rerun_activation",
    "conv2d and relu": "relu",
}
TRANSFORMED = [(name, transform) for name in ALL for transform in ("grad", "jacrev", "hessian")]
TRANSFORMED += [(name, "vmap") for name in ALL if name not in NO_VMAP]


def transformed(transform, op, name):
    # Without its first axis still what max_pool3d takes.
    x = values((2, 2, 2, 6, 6) if name == "max_pool3d" else (2, 2, 6, 6))
    return getattr(torch.func, transform)(lambda x: op(x).pow(2).sum())(x)


@pytest.mark.parametrize(("name", "transform"), TRANSFORMED)
def test_functional_transforms_are_right(name, transform):
    found = transformed(transform, ALL[name], name)
    assert difference(found, transformed(transform, ALL_EAGER[name], name)) is None


@pytest.mark.parametrize("name", NO_VMAP)
def test_vmap_without_a_batching_rule_raises(name):
    with pytest.raises(RuntimeError, match=rf"not implemented for fxpass::{NO_VMAP[name]}\."):
        transformed("vmap", ALL[name], name)


# ---- other devices -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("needs", [True, False])
def test_meta_tensors_fall_back(name, needs):
    x = torch.empty(2, 2, 6, 6, device="meta", requires_grad=needs)
    with torch.device("meta"):
        out, expected = ALL[name](x), ALL_EAGER[name](x)
        assert (out.shape, out.stride(), out.device) == (
            expected.shape,
            expected.stride(),
            x.device,
        )
        if needs:
            out.sum().backward()
            assert x.grad.shape == x.shape


def test_a_gradient_with_special_values_through_the_whole_chain():
    tensors = [t.detach() for t in parameters()]
    tensors[0] = values(tensors[0].shape, kind="specials")
    for kind in ("specials", "normal"):
        check(eager, ours, tensors, upstream=Upstream(kind))
        check(eager, ours, [values(t.shape, kind="edges") for t in tensors])
