"""The max pooling kernels of every target against torch itself, bit for bit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from _bits import bits
from _kernel_buffers import DTYPES, Buffer, seeds, targets, tensor_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fxpass import _kernels


@st.composite
def pools(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return {
        "kernel_size": kernel,
        "stride": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "dilation": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "ceil_mode": draw(st.booleans()),
    }


COMMON = st.sampled_from(
    [
        {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)},
        {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)},
        {"kernel_size": (3, 3), "stride": (2, 2), "padding": (0, 0), "ceil_mode": True},
    ]
)


@given(
    k=targets,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    pool=st.one_of(COMMON, pools()).map(lambda p: {"dilation": (1, 1), "ceil_mode": False, **p}),
    shape=st.tuples(st.integers(0, 2), st.integers(1, 20), st.integers(1, 12), st.integers(1, 70)),
    channels_last=st.booleans(),
    fused=st.booleans(),
    seed=seeds,
)
@settings(deadline=None)
def test_max_pool_is_torchs(k, dtype, pool, shape, channels_last, fused, seed):
    for axis in (0, 1):
        reach = (pool["kernel_size"][axis] - 1) * pool["dilation"][axis]
        # Smaller inputs give no output, or windows that miss the input: ATen's index of those
        # points outside of it.
        assume(shape[2 + axis] > reach)
    images, channels, height, width = shape
    numel = images * channels * height * width
    x = tensor_of(seed, numel, dtype, 0.8).view(shape)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y, indices = F.max_pool2d(F.relu(x) if fused else x, **pool, return_indices=True)
    grad = tensor_of(seed + 1, y.numel(), dtype, 0.9).view(y.shape)
    if channels_last:
        grad = grad.contiguous(memory_format=torch.channels_last)
    (expected_grad,) = torch.autograd.grad(y, x, grad)

    geometry = _kernels.Pool2d(
        channels=channels if channels_last else 1,
        input=[height, width],
        output=list(y.shape[2:]),
        kernel=list(pool["kernel_size"]),
        stride=list(pool["stride"]),
        pad=list(pool["padding"]),
        dilation=list(pool["dilation"]),
        fused_relu=fused,
    )
    layout = "nhwc" if channels_last else "nchw"
    out, codes = Buffer(y.numel(), dtype), Buffer(y.numel(), torch.uint8)
    grad_in = Buffer(numel, dtype)
    getattr(k, f"max_pool2d_{layout}")(
        DTYPES[dtype], geometry, x.data_ptr(), out.address(), codes.address(), 0, y.numel()
    )
    getattr(k, f"max_pool2d_{layout}_backward")(
        DTYPES[dtype],
        geometry,
        grad.data_ptr(),
        codes.address(),
        grad_in.address(),
        images if channels_last else images * channels,
    )

    def flat(t: torch.Tensor) -> torch.Tensor:
        return (t.permute(0, 2, 3, 1) if channels_last else t).detach().contiguous().flatten()

    assert torch.equal(bits(out.tensor), bits(flat(y)))
    assert torch.equal(codes.tensor.long(), flat(codes_of(indices, y, pool, width, fused)))
    assert torch.equal(bits(grad_in.tensor), bits(flat(expected_grad)))
    for buffer in (out, codes, grad_in):
        buffer.assert_intact()


def codes_of(indices, y, pool, width, fused):
    """The code of each output, from torch's index into the plane."""
    oh = torch.arange(y.shape[2])[:, None] * pool["stride"][0] - pool["padding"][0]
    ow = torch.arange(y.shape[3])[None, :] * pool["stride"][1] - pool["padding"][1]
    kh = (indices // width - oh) // pool["dilation"][0]
    kw = (indices % width - ow) // pool["dilation"][1]
    codes = 1 + kh * pool["kernel_size"][1] + kw
    return codes.masked_fill(y <= 0, 0) if fused else codes
