"""Batch norm's kernels of every target against torch itself, bit for bit."""

from __future__ import annotations

import torch
from _bits import bits
from _kernel_buffers import DTYPES, Buffer, seeds, targets, tensor_of, truth, words_for
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fxpass import _kernels


@given(
    k=targets,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    channels_last=st.booleans(),
    relu=st.sampled_from(["none", "masked", "plain"]),
    begin=st.integers(0, 3000),
    in_place=st.booleans(),
    seed=seeds,
)
@settings(deadline=None)
def test_affine_is_torchs_batch_norm(k, dtype, shape, channels_last, relu, begin, in_place, seed):
    images, channels, height, width = shape
    numel = images * channels * height * width
    begin = min(begin // 64 * 64 if relu != "none" else begin, numel)
    x = tensor_of(seed, numel, dtype, 0.9)
    view = x.view(shape)
    if channels_last:
        view = x.view(images, height, width, channels).permute(0, 3, 1, 2)
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(2, channels, generator=g) * 2).round().to(dtype)
    # A mean of 0 and a variance of 1: ATen's coefficients are the weight and the bias.
    zero, one = torch.zeros(channels, dtype=dtype), torch.ones(channels, dtype=dtype)
    y = torch.native_batch_norm(view, a, b, zero, one, False, 0.1, 0.0)[0]
    expected = (y.permute(0, 2, 3, 1) if channels_last else y).contiguous().flatten()[begin:]
    b = b - zero * a
    if relu != "none":
        expected = torch.relu(expected)

    source = Buffer(numel, dtype).fill(x)
    out = source if in_place else Buffer(numel, dtype)
    mask = Buffer(words_for(numel - begin), torch.int64)
    function = _kernels.Affine(
        a=a.data_ptr(),
        b=b.data_ptr(),
        channels=channels,
        inner=1 if channels_last else height * width,
    )
    arguments = (DTYPES[dtype], function, source.address(), out.address(), begin, numel)
    if relu == "none":
        k.affine(*arguments)
    else:
        found = k.affine_relu(*arguments, mask.address() if relu == "masked" else 0)
        sign = bits(torch.tensor([-0.0], dtype=dtype))
        assert found == bool((bits(expected) == sign).any())
    if relu == "masked":
        words = torch.cat([~(expected <= 0), torch.zeros(-len(expected) % 64, dtype=torch.bool)])
        assert torch.equal(truth(mask.tensor, len(words)), words)
    assert torch.equal(bits(out.tensor[begin:]), bits(expected))
    out.assert_intact()
    mask.assert_intact()


@st.composite
def planes(draw):
    images, channels = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    return images, channels, height, width


@given(
    k=targets,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    # So that a division by the degrees of freedom is exact, and shows every bit of the sum.
    shape=st.one_of(planes(), st.sampled_from([(5, 31, 5, 41), (1, 33, 5, 13), (1, 9, 1, 2)])),
    values=st.sampled_from(["normal", "wide", "special"]),
    first=st.integers(0, 40),
    seed=seeds,
)
@settings(deadline=None)
def test_statistics_are_torchs(k, dtype, shape, values, first, seed):
    images, channels, height, width = shape
    inner, count = height * width, images * height * width
    assume(_kernels.stats_are_atens(DTYPES[dtype], inner))
    first = min(first, channels) if first < 8 else 0
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, inner, generator=g, dtype=dtype) + 0.3
    if values != "normal":
        x = x * torch.exp2(torch.randint(-40, 40, x.shape, generator=g).to(dtype))
    if values == "special":  # few, so that some channels have none
        rare = tensor_of(seed, x.numel(), dtype, 0.9).view(x.shape)
        x = torch.where(torch.rand(x.shape, generator=g) < 0.005, rare, x)
    running_mean, running_var = torch.zeros(2, channels, dtype=dtype)
    _, mean, invstd = torch.native_batch_norm(
        x.view(shape), None, None, running_mean, running_var, True, 1.0, 1e-5
    )

    own_mean, var_sum = Buffer(channels, dtype), Buffer(channels, dtype)
    geometry = _kernels.Planes(images=images, channels=channels, inner=inner)
    k.batch_norm_stats_nchw(
        DTYPES[dtype],
        geometry,
        x.data_ptr(),
        first,
        channels,
        own_mean.address(),
        var_sum.address(),
    )
    part = slice(first, channels)
    variance = var_sum.tensor[part] / count
    unbiased = var_sum.tensor[part] / (count - 1)
    # Not 1 / sqrt(): Tensor.sqrt of doubles is MKL's, and not always the nearest.
    own_invstd = (variance.double() + 1e-5).rsqrt().to(dtype)
    assert_same_numbers(own_mean.tensor[part], mean[part])
    assert_same_numbers(own_invstd, invstd[part])
    assert_same_numbers(unbiased, running_var[part])
    own_mean.assert_intact()
    var_sum.assert_intact()
    assert (bits(own_mean.tensor[:first]) == untouched(dtype)).all()


def untouched(dtype: torch.dtype) -> torch.Tensor:
    return bits(Buffer(1, dtype).tensor)


def assert_same_numbers(own: torch.Tensor, expected: torch.Tensor) -> None:
    """The same bits, but for NaNs: those of batch norm's statistics are not certain."""
    assert torch.equal(own.isnan(), expected.isnan())
    assert torch.equal(bits(own.nan_to_num(1.5)), bits(expected.nan_to_num(1.5)))
