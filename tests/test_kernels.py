"""The kernels of every target against torch itself, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fxpass import _kernels

DTYPES = {
    torch.float16: _kernels.DType.F16,
    torch.bfloat16: _kernels.DType.BF16,
    torch.float32: _kernels.DType.F32,
    torch.float64: _kernels.DType.F64,
}
PATTERNS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
GUARD = 64  # bytes behind every output that no kernel may touch
BYTE = 0xA5

targets = st.sampled_from(_kernels.targets()).map(_kernels.get)


class Buffer:
    """A tensor at a chosen offset inside bytes that are watched."""

    def __init__(self, numel: int, dtype: torch.dtype, shift: int = 0) -> None:
        size = numel * dtype.itemsize
        self.start = shift * dtype.itemsize
        self.end = self.start + size
        self.memory = torch.full((self.end + GUARD,), BYTE, dtype=torch.uint8)
        self.tensor = self.memory[self.start : self.end].view(dtype)

    def fill(self, values: torch.Tensor) -> Buffer:
        self.tensor.copy_(values)
        return self

    def address(self) -> int:
        return self.memory.data_ptr() + self.start

    def assert_intact(self) -> None:
        assert (self.memory[: self.start] == BYTE).all(), "bytes before the buffer were written"
        assert (self.memory[self.end :] == BYTE).all(), "bytes behind the buffer were written"


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(PATTERNS[tensor.element_size()])


def words_for(n: int) -> int:
    return (n + 63) // 64


def truth(words: torch.Tensor, n: int) -> torch.Tensor:
    """The first n bits of 64-bit words, as booleans."""
    shifts = torch.arange(64, dtype=torch.int64)
    return ((words[:, None] >> shifts) & 1).flatten()[:n].bool()


def tensor_of(seed: int, n: int, dtype: torch.dtype, density: float) -> torch.Tensor:
    """Zeros, numbers, infinities, NaNs of any payload, -0.0 and subnormals."""
    g = torch.Generator().manual_seed(seed)
    ints = PATTERNS[dtype.itemsize]
    info = torch.iinfo(ints)
    raw = torch.randint(info.min, info.max, (n,), dtype=ints, generator=g).view(dtype)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0], dtype=dtype)
    subnormal = torch.ones(1, dtype=ints).view(dtype)
    # The patterns next to the infinities: the first signalling NaNs and the greatest numbers.
    edges = torch.cat([bits(special[2:4]) + 1, bits(special[2:4]) - 1]).view(dtype)
    special = torch.cat([special, subnormal, edges])
    kind = torch.randint(0, 4, (n,), generator=g)
    values = torch.randn(n, generator=g).to(dtype)
    values = torch.where(kind == 0, raw, values)
    values = torch.where(
        kind == 1, special[torch.randint(0, len(special), (n,), generator=g)], values
    )
    keep = torch.rand(n, generator=g) < density
    out = bits(values) * 0
    out[keep] = bits(values)[keep]
    return out.view(dtype)


sizes = st.one_of(st.integers(0, 200), st.integers(201, 5000))
shifts = st.integers(0, 9)
seeds = st.integers(0, 2**32 - 1)
densities = st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0])
dtypes = st.sampled_from(list(DTYPES))


@given(k=targets, dtype=dtypes, n=sizes, shift=shifts, density=densities, seed=seeds)
@settings(deadline=None)
def test_bitmap_round_trip(k, dtype, n, shift, density, seed):
    x = Buffer(n, dtype, shift)
    bits(x.tensor).copy_(bits(tensor_of(seed, n, dtype, density)))
    nonzero = bits(x.tensor) != 0

    marked = Buffer(words_for(n), torch.int64)
    count = k.bitmap_mark(DTYPES[dtype], x.address(), n, marked.address())
    assert count == int(nonzero.sum())
    assert torch.equal(truth(marked.tensor, n), nonzero)
    assert not truth(marked.tensor, words_for(n) * 64)[n:].any(), "bits past the end are set"

    values = Buffer(count, dtype, shift)
    k.bitmap_gather(DTYPES[dtype], x.address(), marked.address(), n, values.address())
    assert torch.equal(bits(values.tensor), bits(x.tensor)[nonzero])

    packed_bits, packed = Buffer(words_for(n), torch.int64), Buffer(n, dtype, shift)
    assert count == k.bitmap_pack(
        DTYPES[dtype], x.address(), n, packed_bits.address(), packed.address()
    )
    assert torch.equal(packed_bits.tensor, marked.tensor)
    assert torch.equal(bits(packed.tensor[:count]), bits(values.tensor))

    back = Buffer(n, dtype, shift)
    k.bitmap_unpack(DTYPES[dtype], marked.address(), n, values.address(), back.address())
    assert torch.equal(bits(back.tensor), bits(x.tensor))
    for buffer in (marked, values, packed_bits, packed, back):
        buffer.assert_intact()


@given(k=targets, width=st.integers(1, 8), n=sizes, begin=st.integers(0, 5000), seed=seeds)
@settings(deadline=None)
def test_codes_round_trip(k, width, n, begin, seed):
    begin = min(begin, n)
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**width, (n,), dtype=torch.uint8, generator=g)
    words = Buffer(words_for(n) * width, torch.int64)
    k.codes_pack(codes.data_ptr(), n, width, words.address())
    part = Buffer(n - begin, torch.uint8)
    k.codes_unpack(words.address(), begin, n - begin, width, part.address())
    assert torch.equal(part.tensor, codes[begin:])
    words.assert_intact()
    part.assert_intact()


@given(k=targets, dtype=dtypes, n=sizes, shift=shifts, in_place=st.booleans(), seed=seeds)
@settings(deadline=None)
def test_relu_and_select_are_torchs(k, dtype, n, shift, in_place, seed):
    x = tensor_of(seed, n, dtype, 0.9)
    grad = tensor_of(seed + 1, n, dtype, 0.9)
    if dtype.itemsize == 2:
        # ATen converts 16-bit values to float and back: NaN payloads change in its vector body,
        # and stay in its remainder. The ops leave such tensors to ATen; the kernels keep payloads.
        x = torch.where(x.isnan(), torch.ones((), dtype=dtype), x)
        grad = torch.where(grad.isnan(), torch.ones((), dtype=dtype), grad)
    expected = torch.relu(x)
    expected_grad = torch.ops.aten.threshold_backward(grad, expected, 0)

    source = Buffer(n, dtype, shift)
    bits(source.tensor).copy_(bits(x))
    y = source if in_place else Buffer(n, dtype, shift)
    mask = Buffer(words_for(n), torch.int64)
    found = k.relu_mask(DTYPES[dtype], source.address(), y.address(), n, mask.address())
    assert torch.equal(bits(y.tensor), bits(expected))
    assert torch.equal(truth(mask.tensor, n), ~(expected <= 0))
    sign = torch.tensor(-0.0, dtype=dtype)
    assert found == bool((bits(x) == bits(sign.reshape(1))).any())

    given_grad = Buffer(n, dtype, shift)
    bits(given_grad.tensor).copy_(bits(grad))
    out = given_grad if in_place else Buffer(n, dtype, shift)
    k.select(DTYPES[dtype], given_grad.address(), mask.address(), n, out.address())
    assert torch.equal(bits(out.tensor), bits(expected_grad))
    for buffer in (y, mask, out):
        buffer.assert_intact()


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

    source = Buffer(numel, dtype)
    bits(source.tensor).copy_(bits(x))
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


def default_target(**env: str) -> subprocess.CompletedProcess[str]:
    code = "from fxpass import _kernels; print(_kernels.default_target())"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", _kernels.targets())
def test_the_environment_forces_a_target(name):
    assert default_target(FXPASS_TARGET=name).stdout.strip() == name


def test_an_unknown_target_is_an_error_that_lists_the_known():
    result = default_target(FXPASS_TARGET="sse9")
    assert result.returncode != 0
    for word in ("FXPASS_TARGET", "sse9", *_kernels.targets()):
        assert word in result.stderr


def test_get_names_the_targets_there_are():
    with pytest.raises(ValueError, match=r"sse9.*scalar"):
        _kernels.get("sse9")
