"""torch.library.opcheck on every operator that is registered, and what it cannot check."""

import pytest
import torch
from _bits import values
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

ops = torch.ops.fxpass

CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)


def leaf(*shape):
    return values(shape, kind="edges").requires_grad_()


def convolutions(dims):
    x, w, b = leaf(2, 4, *[7] * dims), leaf(6, 2, *[3] * dims), leaf(6)
    yield x, None, w, b, [2], [1], [1], 2
    yield x, ops.bitmap(x), w, None, [1], [0], [1], 2
    yield x.detach(), None, w.detach()[:, :2], None, [1], [1], [2], 2


def padded_convolutions(dims):
    x, w, b = leaf(2, 4, *[7] * dims), leaf(6, 4, *[2] * dims), leaf(6)
    yield x, None, w, b, [1], "same"
    yield x, ops.bitmap(x), w, None, [2], "valid"


def transposed_convolutions(dims):
    x, w, b = leaf(2, 4, *[5] * dims), leaf(4, 3, *[3] * dims), leaf(6)
    yield x, None, w, b, [2], [1], [1], 2
    yield x, ops.bitmap(x), w, None, [1], [0], [0], 1, [2]
    yield x.detach(), None, w.detach(), None


def pools(dims):
    x = leaf(2, 3, *[7] * dims)
    yield x, [2]
    yield x.detach(), [3], [2], [1], [1], True


def avg_pools(dims):
    yield leaf(2, 3, *[7] * dims), [2], [2], [1], True, False
    yield leaf(3, *[7] * dims).detach(), [3]


def adaptive_pools(dims):
    yield leaf(2, 3, *[7] * dims), [3] * dims
    yield leaf(2, 3, *[7] * dims), [1] * dims


def statistics(channels):
    """Running mean, running variance and count of batches, as a new batch norm has them."""
    return torch.zeros(channels), torch.ones(channels), torch.zeros((), dtype=torch.int64)


def batch_norms():
    # Not momentum=None: it counts on a number in a buffer, which no fake tensor has, in eager too.
    x, affine = leaf(2, 3, 4, 4), (leaf(3), leaf(3))
    yield x, None, *affine, *statistics(3), True, 0.1, 1e-5, 2
    yield x, None, *affine, *statistics(3), True, 0.2, 1e-5, 2, "relu"
    yield x, None, None, None, None, None, None, True, 0.1, 1e-5, 2, "hardtanh", [0, 6]
    yield x, None, *affine, *statistics(3)[:2], None, False, 0.1, 1e-5, 2, "silu"
    yield leaf(4, 3).detach(), None, *affine, *statistics(3), True, 0.1, 1e-5, 1


def handles(dims):
    """rerun_* and bind: handles, of which nothing but their being there can be seen."""
    x, y = leaf(2, 3, *[6] * dims), leaf(2, 3, *[6] * dims)
    window = [2] * dims, [2] * dims, [0] * dims
    return {
        f"rerun_max_pool{dims}d": [(x, None, *window, [1] * dims, False, True, True)],
        f"rerun_avg_pool{dims}d": [(x, None, *window, False, True, None, True)],
        "rerun_activation": [(x, None, "silu", [], True), (x, None, "hardtanh", [0, 6], False)],
        "rerun_add": [(x, None, True, y, None, True, 2), (x, None, True, y, None, False)],
        "rerun_mul": [(x, None, True, y, None, True)],
        "rerun_cat": [([x, y], [None, None], 1)],
        "rerun_contiguous": [(x, None, True)],
        "rerun_softmax": [(x, None, 1, False, True), (x, None, -1, True, False)],
        "rerun_glu": [(x, None, -1, True)],
        "rerun_prelu": [(x, None, leaf(1), True), (x, None, leaf(3), False)],
        "rerun_layer_norm": [(x, None, [6], leaf(6), None, 1e-5, True)],
        "rerun_group_norm": [(x, None, 3, leaf(3), leaf(3), 1e-5, True)],
        "rerun_instance_norm": [
            (x, None, leaf(3), leaf(3), None, None, True, 1e-5, True),
            (x, None, None, None, *statistics(3)[:2], False, 1e-5, True),
        ],
    }


def layers(dims):
    """rerun_* of layers: the same, told their value at once."""
    x, w, b = leaf(2, 4, *[7] * dims), leaf(6, 4, *[3] * dims), leaf(6)
    y, t = leaf(2, 6, *[7] * dims), leaf(4, 6, *[3] * dims)
    z, wide = leaf(2, 6), leaf(6, 4)
    return {
        f"rerun_conv{dims}d": [(y, x, None, True, w, b, [1], [1]), (y, x, None, False, w, None)],
        f"rerun_conv{dims}d.padding": [(y, x, None, True, w, b, [1], "same")],
        f"rerun_conv_transpose{dims}d": [(y, x, None, True, t, b, [1], [1])],
        "rerun_linear": [(z, leaf(2, 4), None, True, wide, b)],
    }


def samples():
    """Operator name -> argument lists, made anew for each use."""
    x, w = leaf(4, 6), leaf(3, 6)
    table = {
        "relu": [(leaf(2, 3, 5, 5),), (leaf(7).detach(),)],
        "relu_": [(leaf(2, 3, 5, 5).detach(),)],
        "linear": [(x, None, w, leaf(3)), (x, ops.bitmap(x), w), (leaf(2, 4, 6), None, w)],
        "pad": [
            (leaf(2, 3, 5, 5), None, [1, 1, 1, 1], mode)
            for mode in ("constant", "reflect", "replicate", "circular")
        ],
        "bitmap": [(leaf(4, 70),)],
        "page": [(leaf(4, 70), "/nowhere"), (leaf(4, 70).detach(), "/nowhere", 1 << 22)],
        "batch_norm": batch_norms(),
        "activation": [
            (leaf(2, 3, 5, 5), None, "gelu_tanh"),
            (x, ops.bitmap(x), "leaky_relu", [0.1]),
            (x, None, "leaky_relu", [0.1], True),
            (leaf(2, 3, 5, 5), None, "hardtanh", [0, 6], True),
            (leaf(7).detach(), None, "softplus", [1.0, 20.0]),
        ],
        "activation_": [(leaf(2, 3, 5, 5).detach(), None, "hardswish")],
        "mul": [(x, ops.bitmap(x), leaf(6), None), (x, None, leaf(4, 1).detach(), None)],
        "pack_noise": [(leaf(4, 70),), (leaf(4, 70).detach(),)],
        "stochastic_depth_noise": [(x, 0.3, True), (leaf(2, 3, 4, 4), 0.5, False), (x, 1.0, True)],
        "keep_input": [(x, x, ops.bitmap(x)), (leaf(3).detach(), leaf(3), None)],
        "keep_result": [(x, x, ops.bitmap(x)), (leaf(3).detach(), leaf(3), None)],
        "hold": [(ops.bitmap(x), [1, 2])],
        "bind": [(ops.bitmap(x), x), (ops.bitmap(x), leaf(4, 6), ops.bitmap(x))],
        "bitmap_pack": [(leaf(4, 70).detach(),)],
        "bitmap_unpack": [(*ops.bitmap_pack(leaf(4, 70).detach()), [4, 70], [70, 1])],
    }
    for n in (1, 2, 3):
        table[f"conv{n}d"] = convolutions(n)
        table[f"conv_transpose{n}d"] = transposed_convolutions(n)
        table[f"conv{n}d.padding"] = padded_convolutions(n)
        table[f"adaptive_avg_pool{n}d"] = adaptive_pools(n)
        table[f"adaptive_max_pool{n}d"] = adaptive_pools(n)
        table[f"avg_pool{n}d"] = avg_pools(n)
        for name in ("max_pool{}d", "max_pool{}d_with_indices", "relu_max_pool{}d"):
            table[name.format(n)] = pools(n)
        table |= handles(n) | layers(n)
    return {name: list(arguments) for name, arguments in table.items()}


SAMPLES = samples()

# (operator, check) -> why it cannot pass.
_HANDLE = "opcheck has no comparison for two Saved handles; the values are traced below"
_RETURN_HANDLES = [
    "relu", "relu_", "pad", "bitmap", "page", "batch_norm",
    "bind", "rerun_activation", "rerun_add", "rerun_mul", "rerun_cat", "rerun_contiguous",
    "rerun_softmax", "rerun_glu", "rerun_prelu", "rerun_layer_norm", "rerun_group_norm",
    "rerun_instance_norm", "hold", "rerun_linear",
    *(f"rerun_conv{kind}" for n in (1, 2, 3) for kind in (f"{n}d", f"{n}d.padding")),
    *(f"rerun_conv_transpose{n}d" for n in (1, 2, 3)),
    *(f"rerun_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)),
]  # fmt: skip
EXEMPTIONS = {(name, "test_aot_dispatch_dynamic"): _HANDLE for name in _RETURN_HANDLES}
# Of several arguments the first of which is a handle the check wants the length.
EXEMPTIONS["hold", "test_schema"] = _HANDLE


def registered():
    prefix = "fxpass::"
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def overload(name):
    base, _, rest = name.partition(".")
    return getattr(getattr(ops, base), rest or "default")


def check(name, which):
    for arguments in samples()[name]:
        torch.library.opcheck(overload(name), arguments, test_utils=which)


def test_every_operator_has_a_sample():
    assert sorted(SAMPLES) == registered()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", CHECKS)
@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_opcheck(name, which):
    if (name, which) not in EXEMPTIONS:
        check(name, which)
        return
    try:
        check(name, which)
    except Exception:
        return
    pytest.fail(f"{name} passes {which} by now: take it out of EXEMPTIONS")


def test_exemptions_name_what_there_is():
    assert {name for name, _ in EXEMPTIONS} <= set(registered())
    assert {which for _, which in EXEMPTIONS} <= set(CHECKS)
    assert all(EXEMPTIONS.values())


def tensors_of(result):
    parts = result if isinstance(result, tuple | list) else (result,)
    return [part for part in parts if isinstance(part, torch.Tensor)]


@pytest.mark.parametrize("name", sorted(SAMPLES))
@pytest.mark.parametrize("grad", [True, False])
def test_fake_tensors_have_the_shapes_of_real_ones(name, grad):
    op = overload(name)
    for real, given in zip(samples()[name], samples()[name], strict=True):
        mode = FakeTensorMode(shape_env=torch.fx.experimental.symbolic_shapes.ShapeEnv())
        # Handles of real tensors do not match fake ones: they are not used.
        fake = [
            mode.from_tensor(a, static_shapes=True) if isinstance(a, torch.Tensor) else a
            for a in given
        ]
        with torch.set_grad_enabled(grad):
            expected = tensors_of(op(*real))
            with mode:
                found = tensors_of(op(*fake))
        for a, b in zip(expected, found, strict=True):
            assert (b.dtype, b.device, b.requires_grad) == (a.dtype, a.device, a.requires_grad)
            if name != "bitmap_pack":
                assert (tuple(b.shape), b.stride()) == (tuple(a.shape), a.stride())


TRACED = [
    "relu", "relu_", "pad", "conv2d", "max_pool2d", "linear",
    "batch_norm", "activation", "activation_", "mul", "pack_noise", "conv_transpose2d",
    "keep_input", "keep_result",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize("tracing", ["fake", "symbolic"])
def test_a_traced_graph_computes_the_same(name, tracing):
    op = overload(name)
    for arguments in samples()[name]:
        tensors = [a.detach() for a in arguments if isinstance(a, torch.Tensor)]

        def run(*given, arguments=arguments):
            left = iter(given)
            return tensors_of(
                op(*(next(left) if isinstance(a, torch.Tensor) else a for a in arguments))
            )

        graph = make_fx(run, tracing_mode=tracing)(*(t.clone() for t in tensors))
        expected = run(*(t.clone() for t in tensors))
        for a, b in zip(expected, graph(*(t.clone() for t in tensors)), strict=True):
            assert torch.equal(a, b)
            assert a.stride() == b.stride()
