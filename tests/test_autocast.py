"""The compiled module in a CPU autocast region: eager's bits, fewer bytes, our operators."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from _blocks import NETWORKS
from _exact import assert_exact, recordings, weighted
from _twins import all_operators, is_compiled, nodes, operators, saved_bytes
from torch import nn

import fxpass
from fxpass._oracle import Loop, compare

BF16 = torch.bfloat16


def region(dtype=BF16, **arguments):
    return torch.autocast("cpu", dtype, **arguments)


class Within(nn.Module):
    """The model, called in a region of its own."""

    def __init__(self, inner, make=region):
        super().__init__()
        self.inner, self.make = inner, make

    def forward(self, *inputs):
        with self.make():
            return self.inner(*inputs)

    def explain(self):
        return self.inner.explain()


def pair(model, make=region):
    return Within(model, make), Within(fxpass.compile(model), make)


def images(*shape, grad=True):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(*(shape or (2, 3, 12, 12)), generator=generator).requires_grad_(grad)


def check(model, *inputs, make=region, share=1.0, **arguments):
    """Equal to eager, and at most this share of its bytes; returns the compiled model."""
    eager, ours = pair(model, make)
    assert_exact(eager, *inputs, compiled=ours, **arguments)
    assert saved_bytes(ours, *inputs) <= share * saved_bytes(eager, *inputs), ours.explain()
    return ours.inner


def conv_relu():
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)),
    )


def spatial():
    """All that autocast has opinions on in three dimensions: pools and padding in fp32."""
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1, padding_mode="replicate"),
        *(nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 4, 2, padding="same")),
        *(nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(4, 4, 1), nn.AdaptiveAvgPool3d(1)),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, dtype):
    torch.manual_seed(0)
    check(NETWORKS[name](), images(), make=lambda: region(dtype), share=0.7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grad", [True, False])
def test_relu_pools_and_linear(dtype, grad):
    check(conv_relu(), images(grad=grad), make=lambda: region(dtype), share=0.55)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_three_dimensions(dtype):
    check(spatial(), images(2, 2, 8, 8, 8), make=lambda: region(dtype), share=0.4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_eval_and_training_batch_norm_without_weights_or_statistics(channels_last):
    for tracks in (True, False):
        for affine in (True, False):
            norm = nn.BatchNorm2d(8, affine=affine, track_running_stats=tracks)
            model = nn.Sequential(
                *(nn.Conv2d(3, 8, 3), norm, nn.Hardswish(), nn.Conv2d(8, 8, 3)),
                *(copy.deepcopy(norm), nn.ReLU(), nn.Conv2d(8, 8, 3)),
            )
            if channels_last:
                model.to(memory_format=torch.channels_last)
            check(model, images(), share=0.6)
            check(model.eval(), images(), share=0.6)


def test_the_operators_run():
    # Not the unmodified model, whose equality would prove nothing.
    model = fxpass.compile(NETWORKS["residual"]())
    with region():
        output = model(images())
    assert output.dtype == BF16
    assert is_compiled(output)
    assert {"fxpass::conv_backward", "fxpass::batch_norm_backward"} <= nodes(output)
    assert "ConvolutionBackward0" not in nodes(output)
    assert operators(model).count("conv2d") > 2


@pytest.mark.parametrize("make", [conv_relu, NETWORKS["squeeze-excite"], NETWORKS["dense"]])
@pytest.mark.parametrize("arguments", [{}, {"cache_enabled": False}, {"dtype": torch.float16}])
def test_backward_inside_the_region(make, arguments):
    torch.manual_seed(0)
    model, x = make(), images()
    loop = Loop(3, weighted, around=lambda: region(**arguments))
    eager, ours = recordings(model, fxpass.compile(model), (x,), loop)
    assert eager.error is None
    assert not compare(eager, ours)


class Branches(nn.Module):
    """Pools and padding that are run again on what is kept for the activation."""

    def __init__(self, pools=(F.max_pool3d, F.avg_pool3d)):
        super().__init__()
        self.pools = pools
        self.first, self.norm = nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4)
        self.a, self.b, self.c = (nn.Conv3d(4, 2, 2) for _ in range(3))

    def forward(self, x):
        y = self.first(x)
        pooled = [pool(y, 2) for pool in self.pools]
        outer = F.pad(self.norm(y), [1] * 6, mode="replicate")
        return self.a(pooled[0]) + self.b(pooled[1]), self.c(outer), F.silu(y)


def test_pools_and_padding_again():
    check(Branches(), images(2, 2, 8, 8, 8), share=0.4)


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


class Shared(nn.Module):
    """One weight for two convolutions and, transposed, for none."""

    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        y = self.conv(F.relu(self.conv(F.relu(self.first(x)))))
        y = F.relu(F.adaptive_avg_pool2d(y, 1).flatten(1))
        return self.fc(F.relu(self.fc(y)))


def casts_of(output, weight):
    """The nodes behind `output` that cast `weight`."""
    found, todo, seen = 0, [output.grad_fn], set()
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        below = [n for n, _ in node.next_functions if n is not None]
        found += node.name() == "ToCopyBackward0" and getattr(below[0], "variable", None) is weight
        todo += below
    return found


@pytest.mark.parametrize("cached", [True, False])
def test_a_shared_weight_is_cast_once(cached):
    def make():
        return region(cache_enabled=cached)

    model = check(Shared(), images(), make=make)
    for layer in (model.conv, model.fc):
        with make():
            output = model(images())
        assert casts_of(output, layer.weight) == (1 if cached else 2)


def test_the_casts_are_in_eagers_order():
    # The later ones come first in backward.
    x = images(2, 3, 8, 8)
    for model in (nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Linear(8, 4))):
        orders = []
        for m in pair(model):
            node = m(x * 2).grad_fn
            while len(node.next_functions) < 2:
                node = node.next_functions[0][0]
            behind = [n for n, _ in node.next_functions]
            orders.append(sorted(range(len(behind)), key=lambda i: behind[i]._sequence_nr()))
        assert orders[0] == orders[1]


def test_two_calls_in_one_region_share_the_cast():
    class Twice(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) - 3 * self.inner(x.flip(0))

    model, x = conv_relu(), images()
    eager, ours = Within(Twice(model)), Within(Twice(fxpass.compile(model)))
    assert_exact(eager, x, compiled=ours)
    assert casts_of(ours(x), model[0].weight) == 1


@pytest.mark.parametrize("frozen", [(0,), (2, 5), (0, 2, 5), (0, 2, 5, 8)])
def test_frozen_layers(frozen):
    model = conv_relu()
    for i in frozen:
        model[i].requires_grad_(False)
    for grad in (True, False):
        if grad or len(frozen) < 4:
            check(model, images(grad=grad), share=0.9)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradient(mode):
    model, x = conv_relu(), images()
    compiled = fxpass.compile(model)
    with region(), mode():
        assert torch.equal(model(x), compiled(x))
        assert saved_bytes(compiled, x) <= saved_bytes(model, x)
    # What no_grad left in the cache serves the training call as it does in eager.
    outputs = []
    for m in (model, compiled):
        with region():
            with torch.no_grad():
                m(x)
            outputs.append(m(x))
    grads = [torch.autograd.grad(y.sum(), list(model.parameters())) for y in outputs]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("second", [nn.ReLU, nn.SiLU, lambda: nn.BatchNorm2d(8)])
def test_the_cast_of_a_restored_fp32_value_costs_nothing(second):
    model = nn.Sequential(nn.BatchNorm2d(8), second(), nn.Conv2d(8, 1, 3))
    x = images(4, 8, 12, 12, grad=False)  # the user's, and all that is needed
    check(model, x, share=0.15)


def test_the_cast_of_a_sparse_fp32_value_has_a_bitmap_of_its_own():
    model, x = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 2, 3)), images(4, 8, 12, 12)
    compiled = check(model, x, share=0.3)
    mask = bitmap = x.numel() // 8
    values = 2 * int((x > 0).sum())  # not 4: they are cast
    weight = 2 * model[1].weight.numel()
    with region():
        output = compiled(x)
    assert saved_bytes(Within(compiled), x) == output.nbytes + weight + mask + bitmap + values


class Piece(nn.Module):
    """A value in fp32 that is read by nobody but those who cast it."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.conv, self.other = nn.Conv2d(8, 4, 3), nn.Conv2d(16, 4, 3)

    def forward(self, x):
        # In fp32; their nodes read no element, and none of their results.
        a, b = F.adaptive_avg_pool2d(x, (10, 9)), F.adaptive_avg_pool2d(x, (10, 9))
        if self.how == "cat":
            return self.conv(a) + self.other(torch.cat([a, b], 1))
        if self.how == "add":
            return self.conv(a) + self.conv(a + b) + self.conv(b)
        return self.conv(a) + self.conv(a.contiguous())


@pytest.mark.parametrize("how", ["cat", "add", "contiguous"])
def test_no_fp32_value_is_held_for_the_sake_of_a_cast(how):
    x = images(2, 8, 12, 10, grad=False).contiguous(memory_format=torch.channels_last)
    check(Piece(how), x)


def test_a_concatenation_of_two_dtypes_again():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.conv, self.other = nn.BatchNorm2d(3), conv(3), conv(6)

        def forward(self, x):
            return self.other(torch.cat([F.silu(self.norm(x)), F.relu(self.conv(x))], 1))

    def conv(channels):
        return nn.Conv2d(channels, 3, 3, padding=1)

    x = images(4, 3, 16, 16, grad=False)
    x.view(-1)[::9] = float("nan")
    compiled = check(Mixed(), x, share=0.6)
    assert "rerun_cat" in all_operators(compiled)


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


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_padding(dims, mode):
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            conv = getattr(nn, f"Conv{dims}d")
            self.first, self.second = conv(2, 4, 3, padding=1), conv(4, 2, 3)

        def forward(self, x):
            return self.second(F.pad(F.relu(self.first(x)), [1, 2] * dims, mode=mode))

    check(Padded(), images(2, 2, *[7] * dims), share=0.9)


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -0.0, 1e-45])
def test_special_values(special):
    x = images(2, 3, 13, 11, grad=False)
    x.view(-1)[::7] = special
    check(conv_relu()[:7], x)
    check(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU()), x)
    check(nn.Sequential(nn.BatchNorm2d(3), nn.Hardtanh(), nn.Conv2d(3, 4, 3)), x)


class WritesOver(nn.Module):
    """Writes to a value in fp32 of which convolutions have taken a cast: eager allows it."""

    def __init__(self, first):
        super().__init__()
        self.first, self.conv, self.other = first, nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        y = self.first(x)
        a = self.conv(y)
        y += 1
        return a, self.other(y)


@pytest.mark.parametrize(
    "first",
    [nn.BatchNorm2d(4), nn.SiLU(), nn.AvgPool2d(1), nn.MaxPool2d(2), nn.Identity(), nn.Hardtanh()],
    ids=lambda module: type(module).__name__,
)
def test_a_value_written_to_after_its_cast(first):
    model = nn.Sequential(nn.BatchNorm2d(4), WritesOver(first))
    check(model, images(2, 4, 8, 8))


@pytest.mark.parametrize("swap", [False, True])
def test_a_sum_of_two_dtypes_written_over_one_of_them(swap):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
            self.inner, self.last = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            a, b = self.norm(x), self.inner(self.conv(x))
            if swap:
                a, b = b, a
            a += b
            return self.last(F.silu(a))

    check(Residual(), images(2, 4, 9, 9, grad=False), share=0.65)


def test_relu_into_linear():
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 1))
    check(model, images(400, 64), share=0.8)
