"""Activations in linear pieces that keep one bit an element of their input: eager's bits."""

import pytest
import torch
import torch.nn.functional as F
from _bits import LAYOUTS, Upstream, bits, check, check_errors_too, examples, twin, values
from _threads import torch_threads
from _twins import nodes
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import FILLS

import fxpass

ops = torch.ops.fxpass
INF = float("inf")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
EAGER = {
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "hardsigmoid": F.hardsigmoid,
    "threshold": F.threshold,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
}
ARGUMENTS = {
    "hardtanh": [
        *([-1, 1], [0, 6], [-0.5, 1.5], [0.1, 0.7], [-0.7, -0.1], [-6, 0.0], [-0.0, 6]),
        *([-INF, 1], [-1, INF], [-INF, INF], [-1e-42, 1e-42], [0.3, 0.3], [1 / 3, 2 / 3]),
    ],
    "leaky_relu": [[0.01], [-0.3], [0.0], [-0.0], [1.0], [INF], [float("nan")]],
    "hardsigmoid": [[]],
    "threshold": [[0.3, -1], [0, 0], [-0.7, 2], [1e-40, 0], [INF, 1], [-INF, 1], [-0.0, 5]],
    "hardshrink": [[0.5], [0.3], [0.0], [1 / 3], [1e-41], [-0.5], [1e4], [INF]],
    "softshrink": [[0.5], [0.3], [0.0], [1 / 3], [1e-41], [1e4]],
}
CASES = [(name, arguments) for name, several in ARGUMENTS.items() for arguments in several]
PATTERNS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def eager(name, arguments):
    return lambda x: EAGER[name](x, *arguments)


def masked(name, arguments):
    """The operator, which must keep a mask wherever no NaN is there."""

    def call(x):
        y = ops.activation(x, None, name, arguments, mask=True)
        # A bound that is a NaN has its own way to be compared.
        odd = x.isnan().any() or (name != "leaky_relu" and any(a != a for a in arguments[:1]))
        if x.requires_grad and x.is_contiguous() and not odd:
            assert "fxpass::activation_backward" in nodes(y)
        return y

    return call


def all_numbers(dtype):
    """Every number of 16 bits, or many of more, in all sizes; no NaN."""
    integer = PATTERNS[dtype.itemsize]
    info = torch.iinfo(integer)
    if dtype.itemsize == 2:
        patterns = torch.arange(info.min, info.max + 1, dtype=torch.int32).to(integer)
    else:
        rng = torch.Generator().manual_seed(0)
        patterns = torch.randint(info.min, info.max, (20000,), dtype=integer, generator=rng)
    found = patterns.view(dtype)
    return found[~found.isnan()]


def around(bounds, dtype):
    """The numbers next to each bound, and to its rounded ones."""
    wide = torch.tensor(bounds, dtype=torch.float64)
    found = torch.cat([wide, -wide]).to(torch.float32).to(dtype)
    up, down = (torch.nextafter(found, torch.full_like(found, end)) for end in (INF, -INF))
    return torch.cat([found, up, down])


# ---- the operator ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_every_number(name, arguments, dtype):
    bounds = [a for a in arguments if a == a] + [3.0, 0.0]
    x = torch.cat([all_numbers(dtype), around(bounds, dtype), values((3005,), dtype)])
    for kind in ("normal", "specials"):
        # With gaps in the gradient ATen computes one element at a time.
        for layout in ("contiguous", "sliced"):
            check(
                eager(name, arguments),
                masked(name, arguments),
                [x],
                upstream=Upstream(kind, layout),
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(name, dtype, layout):
    for kind in ("edges", "specials"):
        x = values((3, 4, 5, 7), dtype, kind, layout)
        for arguments in ARGUMENTS[name][:3]:
            for other in LAYOUTS:
                check(
                    eager(name, arguments),
                    masked(name, arguments),
                    [x],
                    upstream=Upstream("specials", other),
                )


numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 6.0, INF, -INF, float("nan"), 1e-44, 1e-310, 7e4, 1e39]),
    st.floats(-8, 8),
    st.integers(-3, 6),
)
COUNTS = {name: len(several[0]) for name, several in ARGUMENTS.items()}


@examples(300)
@given(
    call=st.sampled_from(list(EAGER)).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.lists(numbers, min_size=COUNTS[name], max_size=COUNTS[name]),
        )
    ),
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=5),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(FILLS),
    layout=st.sampled_from(LAYOUTS),
    upstream=st.builds(Upstream, st.sampled_from(FILLS), st.sampled_from(LAYOUTS)),
    seed=st.integers(0, 99),
)
def test_all_arguments(call, shape, dtype, kind, layout, upstream, seed):
    x = values(shape, dtype, kind, layout if len(shape) > 1 else "contiguous", seed)
    if len(shape) < 2:
        upstream.layout = "contiguous"
    check_errors_too(eager(*call), masked(*call), [x], upstream=upstream)


@pytest.mark.parametrize("on_threads", [1, 2])
@pytest.mark.parametrize("n", [32767, 65537, 300001])
def test_large_values_on_all_threads(n, on_threads):
    x = values((n,), kind="edges")
    with torch_threads(on_threads):
        for name, several in ARGUMENTS.items():
            check(eager(name, several[0]), masked(name, several[0]), [x])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [c for c in CASES if c[0] in ("hardshrink", "hardsigmoid", "hardtanh", "threshold")],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place(name, arguments, dtype):
    if name == "hardshrink":
        with pytest.raises(ValueError, match="no in-place form"):
            ops.activation_(torch.ones(3), None, name, arguments, mask=True)
        return
    written = getattr(torch.ops.aten, f"{name}_")

    def in_place(x):
        y = x * 1
        z = ops.activation_(y, None, name, arguments, mask=True)
        assert z.data_ptr() == y.data_ptr()
        return z

    for layout in ("contiguous", "channels_last", "sliced"):
        x = values((3, 4, 5, 7), dtype, "specials", layout)
        check(lambda x: written(x * 1, *arguments), in_place, [x])


def test_a_nan_is_kept_for_aten_to_judge():
    # Its vectors take it for something outside of the bounds, its remainders for one inside.
    x = values((2, 3, 5))
    for at in (0, 17, 29):
        x.view(-1)[at] = float("nan")
        check(F.relu6, lambda x: ops.activation(x, None, "hardtanh", [0, 6], True), [x])
        leaf = twin(x, requires_grad=True)
        assert nodes(ops.activation(leaf, None, "hardtanh", [0, 6], True)) >= {"HardtanhBackward0"}
        x.view(-1)[at] = 1


@pytest.mark.parametrize("name", ["elu", "silu", "tanh", "gelu_none"])
def test_an_op_whose_backward_reads_more_keeps_its_input(name):
    x = values((40,)).requires_grad_()
    y = ops.activation(x, None, name, [1.0] if name == "elu" else [], mask=True)
    assert not any(found.startswith("fxpass") for found in nodes(y))


# ---- what autograd asks of it ------------------------------------------------------------------


def graph(write=lambda x, y: None):
    """Leaf, input, result of a hardtanh and of a leaky ReLU that keep masks."""
    leaf = values((3, 70)).requires_grad_()
    x = leaf * 1
    y = ops.activation(x, None, "hardtanh", [-1, 1], mask=True)
    z = ops.activation(x, None, "leaky_relu", [0.1], mask=True)
    with torch.no_grad():
        write(x, y)
    return leaf, (y + z).sum()


def test_a_second_backward():
    leaf, loss = graph()
    loss.backward(retain_graph=True)
    once = leaf.grad.clone()
    loss.backward()
    assert torch.equal(bits(leaf.grad), bits(once * 2))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_double_backward_says_what_to_do():
    leaf, loss = graph()
    with pytest.raises(RuntimeError, match=r"compiled\.eager\(\)"):
        torch.autograd.grad(loss, leaf, create_graph=True)


def test_a_write_to_what_eager_keeps_raises():
    _, loss = graph(lambda x, y: x.add_(1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    _, loss = graph(lambda x, y: y.add_(1))  # which eager does not keep
    loss.backward()


def test_the_users_hooks_see_the_mask():
    seen = []

    def pack(tensor):
        seen.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x = values((3, 70)).requires_grad_()
        y = ops.activation(x, None, "hardtanh", [-1, 1], mask=True)
    assert [(tuple(t.shape), t.dtype) for t in seen] == [((4,), torch.int64)]
    y.sum().backward()
    assert torch.equal(x.grad, ((x > -1) & (x < 1)).float())


@pytest.mark.parametrize("name", ["hardtanh", "leaky_relu"])
def test_what_is_no_mask_is_refused(name):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t[:1]):
        x = values((3, 70)).requires_grad_()
        y = ops.activation(x, None, name, ARGUMENTS[name][0], mask=True)
    with pytest.raises(RuntimeError, match="expected a payload of 4 contiguous int64 words"):
        y.backward(torch.ones_like(y))


def test_the_mask_is_gone_after_backward():
    x = values((64, 100)).requires_grad_()
    with fxpass.memory.track() as memory:
        y = ops.activation(x, None, "leaky_relu", [0.1], mask=True)
        assert memory.live_bytes == y.nbytes + 100 * 8
        y.backward(torch.ones(()).expand(64, 100))
        x.grad = None
        assert memory.live_bytes == y.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["leaky_relu", "hardsigmoid", "hardtanh", "softshrink"])
def test_backward_makes_no_dense_tensor(name, dtype):
    x = values((2, 8, 256, 256), dtype).requires_grad_()
    loss = (ops.activation(x, None, name, ARGUMENTS[name][0], mask=True) * 2).sum()
    with fxpass.memory.track() as memory:
        loss.backward()
    assert x.nbytes <= memory.peak_bytes < 1.3 * x.nbytes  # the gradient, and some tiles
