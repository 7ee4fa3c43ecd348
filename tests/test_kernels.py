"""The elementwise kernels of every target against torch itself, bit for bit."""

from __future__ import annotations

import torch
from _kernel_buffers import (
    DTYPES,
    Buffer,
    bits,
    densities,
    dtypes,
    seeds,
    shifts,
    sizes,
    targets,
    tensor_of,
    truth,
    words_for,
)
from hypothesis import given, settings
from hypothesis import strategies as st


@given(k=targets, dtype=dtypes, n=sizes, shift=shifts, density=densities, seed=seeds)
@settings(deadline=None)
def test_bitmap_round_trip(k, dtype, n, shift, density, seed):
    x = Buffer(n, dtype, shift).fill(tensor_of(seed, n, dtype, density))
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

    source = Buffer(n, dtype, shift).fill(x)
    y = source if in_place else Buffer(n, dtype, shift)
    mask = Buffer(words_for(n), torch.int64)
    found = k.relu_mask(DTYPES[dtype], source.address(), y.address(), n, mask.address())
    assert torch.equal(bits(y.tensor), bits(expected))
    assert torch.equal(truth(mask.tensor, n), ~(expected <= 0))
    sign = torch.tensor(-0.0, dtype=dtype)
    assert found == bool((bits(x) == bits(sign.reshape(1))).any())

    given_grad = Buffer(n, dtype, shift).fill(grad)
    out = given_grad if in_place else Buffer(n, dtype, shift)
    k.select(DTYPES[dtype], given_grad.address(), mask.address(), n, out.address())
    assert torch.equal(bits(out.tensor), bits(expected_grad))
    for buffer in (y, mask, out):
        buffer.assert_intact()
