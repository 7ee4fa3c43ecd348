"""The bitmap codec: fxpass.bitmap and the operators below it."""

import pytest
import torch
from _bits import DTYPES, bits, difference, examples, values
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import FILLS

from fxpass import bitmap

ops = torch.ops.fxpass


def reference(x):
    """The bits and values of a dense tensor, element by element in memory order."""
    order = sorted(range(x.dim()), key=lambda d: -x.stride(d))
    flat = x.permute(order).reshape(-1)
    marked = bits(flat) != 0
    words = torch.zeros((x.numel() + 63) // 64, dtype=torch.int64)
    for i in marked.nonzero().flatten().tolist():
        bit = 1 << (i % 64)
        words[i // 64] |= bit - (1 << 64) if i % 64 == 63 else bit
    return words, flat[marked]


@examples(150)
@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 17]), max_size=4),
    st.sampled_from(DTYPES),
    st.sampled_from(FILLS),
    st.sampled_from(["contiguous", "channels_last", "transposed"]),
)
def test_what_is_packed(shape, dtype, kind, layout):
    x = values(shape, dtype, kind, layout)
    packed = bitmap.pack(x)
    words, marked = reference(x)
    if x.numel() and 1 not in x.shape:  # a size-1 dimension's stride says nothing of the order
        assert torch.equal(packed.bits, words)
        assert difference(packed.values, marked) is None
    assert bitmap.nbytes(packed) == 8 * words.numel() + marked.numel() * x.element_size()
    back = bitmap.unpack(packed)
    assert difference(x, back) is None


@pytest.mark.parametrize("n", [1, 63, 64, 65, 32767, 32768, 32769, 300_001])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("threads")
def test_every_remainder_and_block(n, dtype):
    for kind in ("mostly_zero", "specials"):
        x = values((n + 1,), dtype, kind, seed=n)[1:]  # a misaligned start
        packed = bitmap.pack(x)
        assert packed.values.numel() == int((bits(x) != 0).sum())
        assert difference(x, bitmap.unpack(packed)) is None


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4, dtype=torch.int64), "expected float32"),
        (torch.zeros(4, dtype=torch.complex64), "expected float32"),
        (torch.zeros(4, 4)[:, ::2], "expected a dense CPU tensor"),
        (torch.zeros(1).expand(4), "expected a dense CPU tensor"),
        (torch.zeros(4, device="meta"), "data-dependent"),
        (torch.zeros(4).to_sparse(), "expected a dense CPU tensor"),
    ],
)
def test_what_cannot_be_packed(x, message):
    with pytest.raises(RuntimeError, match=message):
        bitmap.pack(x)


def test_what_is_no_tensor():
    with pytest.raises(TypeError, match="expected a tensor, got list"):
        bitmap.pack([1.0])
    with pytest.raises(TypeError, match="expected what pack"):
        bitmap.unpack(torch.zeros(3))
    with pytest.raises(TypeError, match="expected what pack"):
        bitmap.nbytes(None)


def damaged():
    x = torch.tensor([1.0, 0.0, 2.0, 3.0] * 20)
    good = bitmap.pack(x)
    size, stride = [80], [1]
    beyond = good.bits.clone()
    beyond[-1] |= 1 << 40
    yield "too few words", (good.bits[:1], good.values, size, stride)
    yield "too many words", (torch.cat([good.bits, good.bits]), good.values, size, stride)
    yield "words of another type", (good.bits.int(), good.values, size, stride)
    yield "words not in one piece", (good.bits.repeat(2)[::2], good.values, size, stride)
    yield "a bit past the end", (beyond, good.values, size, stride)
    yield "too few values", (good.bits, good.values[:-1], size, stride)
    yield "too many values", (good.bits, good.values.repeat(2), size, stride)
    yield (
        "values not in one piece",
        (good.bits, good.values.repeat_interleave(2)[::2], size, stride),
    )
    yield "values of another type", (good.bits, good.values.long(), size, stride)
    yield "another size", (good.bits, good.values, [79], stride)
    yield "a larger size", (good.bits, good.values, [8000], stride)
    yield "a negative size", (good.bits, good.values, [-80], stride)
    yield "gaps", (good.bits, good.values, [80], [2])
    yield "overlap", (good.bits, good.values, [80], [0])
    yield "negative strides", (good.bits, good.values, [80], [-1])
    yield "too few strides", (good.bits, good.values, [8, 10], [1])
    yield "bits on no device", (good.bits.to("meta"), good.values, size, stride)
    yield "values on no device", (good.bits, good.values.to("meta"), size, stride)
    yield "an enormous size", (good.bits, good.values, [1 << 40, 1 << 40], [1 << 40, 1])


@pytest.mark.parametrize(("what", "payload"), [pytest.param(w, p, id=w) for w, p in damaged()])
def test_a_damaged_payload_is_refused(what, payload):
    with pytest.raises(RuntimeError):
        ops.bitmap_unpack(*payload)


@examples(150)
@given(
    st.integers(0, 200), st.integers(0, 5), st.integers(0, 200), st.sampled_from(DTYPES), st.data()
)
def test_no_payload_reads_or_writes_out_of_bounds(n, words, count, dtype, data):
    # Whatever the bytes are: an error, or a tensor that packs to the same again.
    pattern = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=words, max_size=words))
    mask, marked = torch.tensor(pattern, dtype=torch.int64), torch.ones(count, dtype=dtype)
    try:
        back = ops.bitmap_unpack(mask, marked, [n], [1])
    except RuntimeError:
        return
    again = bitmap.pack(back)
    assert torch.equal(again.bits, mask)
    assert torch.equal(again.values, marked)


def test_packing_is_not_differentiated():
    x = torch.ones(5, requires_grad=True)
    packed = bitmap.pack(x)
    assert not packed.values.requires_grad
    assert not bitmap.unpack(packed).requires_grad
