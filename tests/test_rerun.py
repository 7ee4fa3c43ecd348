"""Sums, products, concatenations, copies and pools that are run again: bits, bytes, lifetimes."""

import contextlib
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from _bits import Upstream, bits, check, examples, values
from _blocks import NETWORKS, SHAPE, Dropped, SqueezeExcite, network
from _chain import flush
from _exact import assert_exact, assert_nothing_left, assert_saves_no_more
from _norms import EAGER, LISTS
from _twins import all_operators, makes_handles, operators, saved_bytes
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import FILLS
from torch import nn

import fxpass

ops = torch.ops.fxpass
IMAGE = (4, 3, 8, 8)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def made(name):
    torch.manual_seed(0)
    return NETWORKS[name]()


def image(dtype=torch.float32, layout="contiguous"):
    return values(IMAGE, dtype, layout=layout).requires_grad_()


# ---- known blocks ------------------------------------------------------------------------------

# What is run again, by network, and the share of eager's saved bytes that is kept at most. A ReLU
# in front of a sum is `rerun_activation`.
AGAIN = {
    "residual": ("rerun_activation rerun_add", 0.53),
    "residual in place": ("rerun_activation rerun_add", 0.53),
    "residual with downsampling": ("rerun_activation rerun_add", 0.57),
    "in place with downsampling": ("rerun_activation rerun_add", 0.57),
    "residual with a pooled shortcut": ("rerun_avg_pool2d", 0.54),
    "residual hardswish": ("rerun_activation 2 rerun_add", 0.37),
    "pre-activation": ("", 0.43),
    "pre-activation in place": ("", 0.43),
    "pre-activation silu": ("", 0.30),
    "dense": ("8 rerun_cat", 0.18),
    "dense with dropout": ("3 pack_noise 4 rerun_cat", 0.16),
    "squeeze-excite": ("rerun_add 2 rerun_mul", 0.34),
    "squeeze-excite hard": ("rerun_activation rerun_mul", 0.35),
    "squeeze-excite, scale last": ("rerun_mul", 0.35),
    "squeeze-excite, dropped": ("rerun_add 3 rerun_mul", 0.34),
    "shuffle": ("rerun_cat rerun_contiguous", 0.42),
    "shuffle in place": ("rerun_cat rerun_contiguous", 0.42),
    "stochastic depth": ("rerun_add rerun_mul", 0.40),
    "stochastic depth of a batch": ("rerun_add rerun_mul", 0.40),
    "inception": ("rerun_cat 2 rerun_max_pool2d", 0.24),
}


def again(compiled):
    """What a compiled model runs again or packs, as AGAIN writes it."""
    count = Counter(n for n in all_operators(compiled) if makes_handles(n) and n != "bind")
    return " ".join(name if n == 1 else f"{n} {name}" for name, n in sorted(count.items()))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_known_blocks(name):
    model, x = made(name), image()
    compiled = assert_exact(model, x)
    expected, share = AGAIN[name]
    assert again(compiled) == expected
    assert assert_saves_no_more(model, compiled, x) <= share
    x = image(layout="channels_last")
    compiled = assert_exact(model.to(memory_format=torch.channels_last), x, steps=2)
    assert_saves_no_more(model, compiled, x)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_in_other_dtypes(name, dtype):
    model, x = made(name).to(dtype), image(dtype)
    compiled = assert_exact(model, x, steps=2)
    # A mask on top of what ATen keeps, where its own batch norm runs.
    assert_saves_no_more(model, compiled, x, slack=0 if dtype == torch.float64 else x.nbytes)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_evaluation_with_gradients(name):
    model, x = made(name).eval(), image()
    assert_saves_no_more(model, assert_exact(model, x), x, slack=2048)


def on_two_threads(name):
    model, x = made(name), values((4, 3, 40, 40)).requires_grad_()
    assert_exact(model, x, steps=1, on_threads=2)


@pytest.mark.parametrize("name", ["residual in place", "dense", "squeeze-excite hard", "shuffle"])
def test_on_two_threads(name):
    on_two_threads(name)


# ---- freezing ----------------------------------------------------------------------------------


def norms_of(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def freeze_norms(model):
    for bn in norms_of(model):
        bn.eval().requires_grad_(False)


def freeze_trunk(model):
    model[:-1].requires_grad_(False)


def freeze_half(model):
    model[: len(model) // 2 + 1].requires_grad_(False)


def biases_only(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))


def norms_only(model):
    model.requires_grad_(False)
    for bn in norms_of(model):
        bn.requires_grad_()


FREEZE = {
    "norms in eval": freeze_norms,
    "norms in eval, trained": lambda model: [bn.eval() for bn in norms_of(model)],
    "trunk": freeze_trunk,
    "half": freeze_half,
    "all but biases": biases_only,
    "all but norms": norms_only,
    "all but norms, in eval": lambda model: [norms_only(model), model.eval()],
    "all": lambda model: model.requires_grad_(False),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("freeze", FREEZE)
def test_frozen_parts(name, freeze):
    model = made(name)
    FREEZE[freeze](model)
    compiled = fxpass.compile(model)
    # Copies of batch norms' vectors: what eager keeps by reference.
    vectors = sum(4 * bn.num_features * 4 for bn in norms_of(model))
    for needs_gradient in (False, True):
        x = image().detach().requires_grad_(needs_gradient)
        assert_exact(model, x, steps=3 if needs_gradient else 1, compiled=compiled)
        assert_saves_no_more(model, compiled, x, slack=vectors)


@pytest.mark.parametrize("name", ["residual", "dense", "squeeze-excite"])
def test_freezing_after_compile(name):
    model, x = made(name), image()
    compiled = fxpass.compile(model)
    whole = saved_bytes(compiled, x)
    freeze_trunk(model)
    assert saved_bytes(compiled, x.detach()) < 0.1 * whole
    assert saved_bytes(compiled, x.detach()) <= saved_bytes(model, x.detach())


# ---- lifetimes ---------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stop(gradient):
    raise Stop


def leaves(model):
    return [image(), *model.parameters()]


def some_inputs(model):
    for chosen in (slice(0, 1), slice(1, 2), slice(-2, None), slice(3, None, 4)):
        inputs = leaves(model)
        torch.autograd.grad(model(inputs[0]).sum(), inputs[chosen])


def raises_in_the_middle(model):
    inputs = leaves(model)
    middle = list(model.parameters())[len(inputs) // 2]
    hook = middle.register_hook(stop)
    with contextlib.suppress(Stop):
        torch.autograd.grad(model(inputs[0]).sum(), inputs)
        raise AssertionError("nothing was raised")
    hook.remove()
    flush()


def retained(model):
    inputs = leaves(model)
    loss = model(inputs[0]).sum()
    for retain in (True, True, False):
        torch.autograd.grad(loss, inputs, retain_graph=retain)


def several_forwards(model):
    inputs = leaves(model)
    losses = [model(inputs[0] * i).sum() for i in (1, 2, 3)]
    for i in (1, 2, 0):
        torch.autograd.grad(losses[i], inputs)


def no_backward(model):
    model(image())


def retained_and_dropped(model):
    inputs = leaves(model)
    torch.autograd.grad(model(inputs[0]).sum(), inputs, retain_graph=True)


USES = [
    some_inputs, raises_in_the_middle, retained, several_forwards, no_backward,
    retained_and_dropped,
]  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_left_alive(name):
    model = made(name)
    compiled = fxpass.compile(model)
    for use in USES:
        assert_nothing_left(model, use=use)
        assert_nothing_left(compiled, use=use)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_kept_is_gone_after_backward_with_the_loss_still_held(name):
    compiled = fxpass.compile(made(name))
    inputs = leaves(compiled)
    compiled(inputs[0])
    with fxpass.memory.track() as memory:
        loss = compiled(inputs[0]).sum()
        torch.autograd.grad(loss, inputs)
        assert memory.live_bytes == loss.nbytes


def gradients(use_gradients, model):
    torch.manual_seed(3)
    return [[bits(g).tolist() for g in grads if g is not None] for grads in use_gradients(model)]


def partial_gradients(model):
    for start in (0, 1, 4):
        inputs = leaves(model)
        out = model(inputs[0])
        grad = values(out.shape, seed=start)
        yield torch.autograd.grad(out, inputs[start::3], grad)


def repeated_gradients(model):
    inputs = leaves(model)
    out = model(inputs[0])
    for seed in (1, 2, 1):
        grad = values(out.shape, seed=seed)
        yield torch.autograd.grad(out, inputs[seed:], grad, retain_graph=True)


def interleaved_gradients(model):
    inputs = leaves(model)
    outs = [model(inputs[0] * i) for i in (1, 2, 3)]
    for i in (1, 2, 0):
        yield torch.autograd.grad(outs[i], inputs, values(outs[i].shape, seed=i))


def gradients_after_an_error(model):
    inputs = leaves(model)
    out = model(inputs[0])
    hook = list(model.parameters())[2].register_hook(stop)
    with contextlib.suppress(Stop):
        torch.autograd.grad(out.sum(), inputs, retain_graph=True)
    hook.remove()
    flush()
    yield torch.autograd.grad(out, inputs, values(out.shape))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "use", [partial_gradients, repeated_gradients, interleaved_gradients, gradients_after_an_error]
)
def test_gradients_of_unusual_backwards(name, use):
    eager, ours = made(name), fxpass.compile(made(name))
    assert gradients(use, eager) == gradients(use, ours)
    assert all(torch.equal(a, b) for a, b in zip(eager.buffers(), ours.buffers(), strict=True))


def test_a_backward_twice_raises_as_in_eager():
    for name in NETWORKS:
        loss = fxpass.compile(made(name))(image()).sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


# ---- each op -----------------------------------------------------------------------------------


def read(y, handle, weight):
    """A reader whose weight's gradient shows every bit of what the handle restores."""
    return ops.mul(y, handle, weight, None)


def again_of(op, rerun):
    """(eager, ours): `op`, then a product with a weight that reads its result in backward."""

    def eager(weight, *tensors):
        return op(*tensors) * weight

    def ours(weight, *tensors):
        handle = rerun(*tensors)
        y = op(*tensors)
        return read(y, ops.bind(handle, y), weight)

    return eager, ours


def check_again(op, rerun, *tensors, layout="contiguous"):
    result = op(*tensors)
    weight = values(result.shape, result.dtype, layout=layout, seed=8)
    eager, ours = again_of(op, rerun)
    check(eager, ours, [weight, *tensors], upstream=Upstream(layout=layout))
    handle = rerun(*tensors)
    y = op(*tensors)
    bound = ops.bind(handle, y)
    out = read(y, bound, weight.requires_grad_())
    assert bound.recipe().startswith("re-run")
    assert bound.matches(y)
    del out


@st.composite
def pairs(draw):
    """Two tensors that broadcast, in any layouts and dtypes, with any values."""
    shape = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    other = [draw(st.sampled_from([n, n, n, 1])) for n in shape][draw(st.integers(0, 1)) :]
    dtypes = draw(st.sampled_from([(d, d) for d in DTYPES] * 2 + [(torch.bfloat16, torch.float32)]))
    layouts = st.sampled_from(["contiguous", "channels_last", "sliced", "transposed", "expanded"])
    return [
        values(s, d, draw(st.sampled_from(FILLS)), draw(layouts), seed=i)
        for i, (s, d) in enumerate(zip((shape, other), dtypes, strict=True))
    ]


@examples(150)
@given(pairs(), st.sampled_from([1, -1, 2, 0.5]), st.booleans())
def test_sums(tensors, alpha, swap):
    a, b = reversed(tensors) if swap else tensors
    check_again(
        lambda a, b: torch.add(a, b, alpha=alpha),
        lambda a, b: ops.rerun_add(a, None, True, b, None, True, alpha),
        a, b,
    )  # fmt: skip


@examples(100)
@given(pairs(), st.booleans())
def test_products(tensors, swap):
    a, b = reversed(tensors) if swap else tensors
    check_again(
        torch.mul, lambda a, b: ops.rerun_mul(a, None, True, b, None, True), a, b
    )  # fmt: skip


@examples(60)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4), st.sampled_from(DTYPES), st.integers(0, 3)
)
def test_concatenations(widths, dtype, dim):
    layouts = ("contiguous", "channels_last", "sliced", "transposed")
    tensors = []
    for i, width in enumerate(widths):
        shape = [3, 2, 4, 5]
        shape[dim] = width
        tensors.append(values(shape, dtype, "specials", layouts[(i + width) % 4], seed=i))
    for d in (dim, dim - 4):
        check_again(
            lambda *ts, d=d: torch.cat(ts, d),
            lambda *ts, d=d: ops.rerun_cat(list(ts), [None] * len(ts), d),
            *tensors,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "expanded"])
def test_copies(dtype, layout):
    x = values((3, 4, 5, 6), dtype, "specials", layout)
    check_again(
        lambda x: x.transpose(1, 2).contiguous(),
        lambda x: ops.rerun_contiguous(x.transpose(1, 2), None, True),
        x,
    )


POOLS = [
    ([3], [2], [1], [1], True), ([2], [2], [0], [1], False), ([3], [1], [1], [2], False),
    ([2], [3], [1], [1], True), ([1], [1], [0], [1], False),
]  # fmt: skip


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fused", [False, True])
def test_max_pools(dims, dtype, fused):
    pool, rerun = getattr(F, f"max_pool{dims}d"), getattr(ops, f"rerun_max_pool{dims}d")
    for layout in ("contiguous", "channels_last", "sliced"):
        x = values((2, 3, *[9] * dims), dtype, "specials", layout)
        for window, stride, padding, dilation, ceil_mode in POOLS:
            args = [window * dims, stride * dims, padding * dims, dilation * dims, ceil_mode]
            check_again(
                lambda x, a=args: pool(torch.relu(x) if fused else x, *a),
                lambda x, a=args: rerun(x, None, *a, fused, True),
                x,
            )


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_avg_pools(dims, dtype):
    if (dims, dtype) == (3, torch.bfloat16):
        pytest.skip("eager has no such pool")
    pool, rerun = getattr(F, f"avg_pool{dims}d"), getattr(ops, f"rerun_avg_pool{dims}d")
    for layout in ("contiguous", "channels_last", "sliced"):
        x = values((2, 3, *[9] * dims), dtype, "specials", layout)
        for window, stride, padding, _, ceil_mode in POOLS:
            for include, divisor in ((True, None), (False, None), (True, 5)):
                args = [window * dims, stride * dims, padding * dims, ceil_mode, include]
                more = [] if dims == 1 else [divisor]
                check_again(
                    lambda x, a=args, m=more: pool(x, *a, *m),
                    lambda x, a=args, m=more: rerun(x, None, *a, *(m or [None]), True),
                    x,
                )


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(name, dtype):
    arguments = LISTS.get(name, [])
    for layout in ("contiguous", "channels_last", "sliced", "transposed"):
        x = values((2, 3, 5, 7), dtype, "specials", layout)
        check_again(
            lambda x: ops.activation(x, None, name, arguments),
            lambda x: ops.rerun_activation(x, None, name, arguments, True),
            x,
        )


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


# ---- dropout -----------------------------------------------------------------------------------


class Drop(nn.Module):
    def __init__(self, drop, shape=SHAPE):
        super().__init__()
        kind = nn.Conv2d if len(shape) == 4 else nn.Conv3d if len(shape) == 5 else nn.Conv1d
        self.first, self.second = kind(shape[1], 6, 1), kind(6, 4, 1)
        self.drop = drop

    def forward(self, x):
        return self.second(self.drop(F.relu(self.first(x))))


DROPS = {
    nn.Dropout: (4, 8, 8, 8),
    nn.Dropout1d: (4, 8, 50),
    nn.Dropout2d: (64, 8, 8, 8),
    nn.Dropout3d: (64, 8, 3, 3, 3),
    nn.AlphaDropout: (4, 8, 8, 8),
    nn.FeatureAlphaDropout: (64, 8, 4, 4),
}


@pytest.mark.parametrize("kind", DROPS)
@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_of_every_kind(kind, p, inplace):
    for dtype in (torch.float32, torch.bfloat16):
        for training in (True, False):
            model = Drop(kind(p, inplace), DROPS[kind]).to(dtype).train(training)
            x = values(DROPS[kind], dtype).requires_grad_()
            # In place over a ReLU's result, eager raises in backward.
            compiled = assert_exact(model, x, steps=2, may_raise=inplace)
            assert "pack_noise" in all_operators(compiled)


FUNCTIONS = {
    "dropout": lambda m, x: F.dropout(x, 0.3, m.training),
    "dropout in place": lambda m, x: F.dropout(x * 2, 0.3, inplace=True),
    "dropout with p": lambda m, x: F.dropout(x, p=m.drop.p, training=True),
    "dropout1d": lambda m, x: F.dropout1d(x.flatten(2), 0.3).view_as(x),
    "dropout2d": lambda m, x: F.dropout2d(x, 0.3),
    "alpha_dropout": lambda m, x: F.alpha_dropout(x, 0.3, True),
    "feature_alpha_dropout": lambda m, x: F.feature_alpha_dropout(x, 0.3, True),
    "torch.dropout": lambda m, x: torch.dropout(x, 0.3, True),
    "two": lambda m, x: F.dropout(F.dropout(x, 0.3), 0.5),
    "of a sum": lambda m, x: F.dropout(x + x, 0.3) + x,
    "read twice": lambda m, x: (lambda y: y + y.relu())(F.dropout(x, 0.4)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dropout_functions(name):
    class Model(Drop):
        def forward(self, x):
            return self.second(FUNCTIONS[name](self, F.relu(self.first(x))))

    model, x = Model(nn.Dropout(0.2)), values((32, 8, 4, 4)).requires_grad_()
    assert_exact(model, x)
    assert_saves_no_more(model, fxpass.compile(model), x)


def test_the_noise_is_kept_as_bits():
    x = values((8, 16, 32, 32)).requires_grad_()
    for kind in (nn.Dropout, nn.AlphaDropout):
        model = nn.Sequential(nn.AvgPool2d(1), kind(0.4), nn.AvgPool2d(32))
        eager, ours = saved_bytes(model, x), saved_bytes(fxpass.compile(model), x)
        assert eager >= 2 * x.nbytes
        assert ours == pytest.approx(x.nbytes / 32, rel=0.1)


def test_the_random_stream_goes_on_as_in_eager():
    model = nn.Sequential(nn.Linear(8, 600), nn.ReLU(), nn.Dropout(0.5), nn.Dropout(0.1))
    compiled, x = fxpass.compile(model), values((4, 8))
    seen = []
    for m in (model, compiled):
        torch.manual_seed(5)
        seen.append([m(x), torch.rand(3), m(x), torch.randn(2), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("second", [0.0, 2.5, -0.0, float("nan"), float("inf"), 1e-42])
@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_of_zeros_and_one_other_value(second, dtype):
    w = torch.tensor([0.0, second]).to(dtype)[torch.randint(2, (5, 100))]
    x = values((5, 100), dtype, "edges")

    def packed(x):
        y = x * w
        assert ops.pack_noise(y).data_ptr() == y.data_ptr()
        return y

    check(lambda x: x * w, packed, [x])


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_other_factors_are_left_alone(size):
    def packed(x, w):
        y = x * w
        ops.pack_noise(y)
        return y

    x = values((size,))
    three = torch.tensor([0.0, 1.0, 2.0])[torch.arange(size) % 3]
    for w in (three, values((size,), kind="specials"), torch.ones(size), torch.zeros(size)):
        check(lambda x, w: x * w, packed, [x, w], needs=[True, False])
    check(lambda x, w: x * w, packed, [x, three])  # a factor that needs a gradient itself
    check(lambda x, w: x.exp(), lambda x, w: ops.pack_noise(x.exp()), [x, three])


# ---- stochastic depth --------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth(p, mode):
    for training in (True, False):
        model = network(Dropped(p, mode), SqueezeExcite(drop=p)).train(training)
        for dtype in (torch.float32, torch.bfloat16):
            compiled = assert_exact(model.to(dtype), image(dtype))
        if training and p > 0:
            assert operators(compiled).count("stochastic_depth_noise") == 1


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_stochastic_depth_with_a_probability_that_is_none(p):
    model = network(Dropped(p))
    with pytest.raises(ValueError, match="drop probability"):
        model(image())
    with pytest.raises(ValueError, match="drop probability"):
        fxpass.compile(model)(image())


def test_stochastic_depth_changed_after_compile():
    model = network(Dropped(0.3))
    compiled = fxpass.compile(model)
    for change in ("p", "mode"):
        setattr(model[3].drop, change, {"p": 0.8, "mode": "batch"}[change])
        seen = []
        for m in (model, compiled):
            torch.manual_seed(2)
            x = image()
            out = m(x)
            seen.append((out, *torch.autograd.grad(out.sum(), [x, *m.parameters()])))
        assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
