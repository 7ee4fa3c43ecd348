"""Forward-mode AD, functional transforms and other devices."""

import pytest
import torch
from _bits import Upstream, check, values
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALL)
def test_functional_transforms_are_right_or_raise(name):
    x = values((2, 2, 6, 6))
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.hessian, torch.func.vmap):

        def transformed(op, transform=transform):
            return transform(lambda x: op(x).pow(2).sum())(x)

        try:
            found = transformed(ALL[name])
        except (RuntimeError, NotImplementedError):
            continue
        assert torch.equal(found, transformed(ALL_EAGER[name]))


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
