"""The casts of an autocast region: of shared weights once, of values as cheaply as can be."""

import pytest
import torch
import torch.nn.functional as F
from _autocast import Within, check, conv_relu, images, pair, region
from _exact import assert_exact
from _twins import all_operators, nodes_behind, saved_bytes
from torch import nn

import fxpass


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
    casts = [node for node in nodes_behind(output) if node.name() == "ToCopyBackward0"]
    return sum(getattr(node.next_functions[0][0], "variable", None) is weight for node in casts)


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
