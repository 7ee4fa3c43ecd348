"""Autocast regions of all kinds: nested, disabled, around backward, around parts of the model."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from _autocast import BF16, Branches, Within, check, conv_relu, images, region
from _blocks import NETWORKS
from _exact import assert_exact, recordings, weighted
from _twins import nodes, saved_bytes
from torch import nn

import fxpass
from fxpass._oracle import Loop, compare


@pytest.mark.parametrize("make", [conv_relu, NETWORKS["squeeze-excite"], NETWORKS["dense"]])
@pytest.mark.parametrize("arguments", [{}, {"cache_enabled": False}, {"dtype": torch.float16}])
def test_backward_inside_the_region(make, arguments):
    torch.manual_seed(0)
    model, x = make(), images()
    loop = Loop(3, weighted, around=lambda: region(**arguments))
    eager, ours = recordings(model, fxpass.compile(model), (x,), loop)
    assert eager.error is None
    assert not compare(eager, ours)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (NETWORKS["residual hardswish"](), (2, 3, 12, 12)),
        # Average pooling has no kernel for bf16.
        (Branches((F.max_pool3d, F.max_pool3d)), (2, 2, 8, 8, 8)),
    ],
    ids=["2d", "3d"],
)
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_backward_in_a_region_that_forward_was_not_in(model, shape, dtype):
    model, x = copy.deepcopy(model).to(dtype), images(*shape).to(dtype)
    seen = []
    for m in (model, fxpass.compile(copy.deepcopy(model))):
        output = m(x)
        loss = sum(y.sum() for y in output)
        with region():
            seen.append(torch.autograd.grad(loss, [*m.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_without_the_cache():
    check(conv_relu(), images(), make=lambda: region(cache_enabled=False), share=0.6)


def test_a_disabled_region():
    @contextlib.contextmanager
    def disabled():
        with region(), region(enabled=False):
            yield

    model = check(NETWORKS["residual"](), images(), make=disabled, share=0.8)
    with disabled():
        assert model(images()).dtype == torch.float32


def test_a_region_in_a_disabled_one():
    @contextlib.contextmanager
    def again():
        with region(), region(enabled=False), region():
            yield

    check(NETWORKS["residual"](), images(), make=again, share=0.7)


def test_regions_around_parts_of_the_model():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = conv_relu()[:6], nn.Linear(256, 3)

        def forward(self, x):
            with region():
                y = self.body(x)
            return self.head(y.float().flatten(1))

    model = Mixed()
    with pytest.warns(UserWarning, match=r"enters torch\.autocast"):
        compiled = fxpass.compile(model, example_inputs=(images(),))
    assert_exact(model, images(), compiled=compiled)
    assert "fxpass::conv_backward" in nodes(compiled(images()))
    assert saved_bytes(compiled, images()) <= 0.6 * saved_bytes(model, images())


def test_one_compiled_model_in_and_out_of_regions():
    model, x = NETWORKS["squeeze-excite"](), images()
    compiled = fxpass.compile(model)
    assert_exact(model, x, compiled=compiled)
    for make in (region, lambda: region(torch.float16), contextlib.nullcontext):
        assert_exact(Within(model, make), x, compiled=Within(compiled, make))
