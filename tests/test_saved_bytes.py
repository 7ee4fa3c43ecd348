"""What is kept between forward and backward, to the byte, for each recipe."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxpass

WORD = 8


def words(n: int) -> int:
    return -(-n // 64) * WORD


def saved(model: nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Bytes that are live after the forward, the output aside."""
    with fxpass.memory.track() as memory:
        out = model(x)
        return memory.live_bytes - out.nbytes, out


def compiled(*layers: nn.Module) -> nn.Module:
    return fxpass.compile(nn.Sequential(*layers))


@pytest.mark.parametrize(
    ("dims", "kernel", "width"), [(1, 2, 2), (1, 3, 2), (2, 2, 3), (2, 3, 4), (3, 2, 4)]
)
def test_relu_and_max_pool_keep_only_codes(dims, kernel, width):
    pool = getattr(nn, f"MaxPool{dims}d")(kernel)
    x = torch.randn(2, 3, *[12] * dims, requires_grad=True)
    kept, out = saved(compiled(nn.ReLU(), pool), x)
    assert kept == words(out.numel()) * width


def test_relu_alone_keeps_a_bit_an_element():
    class Residual(nn.Module):
        def forward(self, x):
            return torch.relu(x) + x

    x = torch.randn(4, 1000, requires_grad=True)
    kept, _ = saved(fxpass.compile(Residual()), x)
    assert kept == words(4000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_relu_and_linear_share_one_bitmap(dtype):
    x = torch.randn(16, 100, dtype=dtype, requires_grad=True)
    x = (x * 1).detach().requires_grad_()
    kept, _ = saved(compiled(nn.ReLU(), nn.Linear(100, 3, dtype=dtype)), x)
    nonzero = int((x.detach() > 0).sum())
    assert kept == words(1600) + nonzero * x.element_size()


def test_relu_and_convolutions_share_one_bitmap():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

        def forward(self, x):
            y = F.relu(x)
            return self.a(y) + self.b(y)

    x = torch.randn(2, 3, 10, 10, requires_grad=True)
    kept, _ = saved(fxpass.compile(Two()), x)
    assert kept == words(600) + int((x > 0).sum()) * 4


@pytest.mark.parametrize(
    "pool",
    [nn.AvgPool1d(2), nn.AvgPool2d(2), nn.AvgPool3d(2), nn.AdaptiveAvgPool2d(2)],
    ids=lambda pool: type(pool).__name__,
)
def test_average_pools_keep_nothing(pool):
    dims = int(type(pool).__name__[-2])
    x = torch.randn(2, 3, *[8] * dims, requires_grad=True)

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = pool

        def forward(self, x):
            return self.pool(x + 1)

    kept, _ = saved(fxpass.compile(Scaled()), x)
    assert kept == 0


def test_max_pool_of_anything_keeps_codes():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.MaxPool2d(2)

        def forward(self, x):
            return self.pool(x + 1)

    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    kept, out = saved(fxpass.compile(Scaled()), x)
    assert kept == words(out.numel()) * 3


def test_a_bitmap_larger_than_the_tensor_stays_dense():
    x = torch.rand(4, 1600, requires_grad=True)  # no zeros
    kept, _ = saved(compiled(nn.ReLU(), nn.Linear(1600, 2)), x)
    assert kept == words(6400) + x.nbytes


def test_a_frozen_layer_keeps_no_input():
    model = compiled(nn.ReLU(), nn.Conv2d(3, 4, 3))
    x = torch.randn(2, 3, 10, 10, requires_grad=True)
    trained, _ = saved(model, x)
    model[1].weight.requires_grad_(False)
    kept, _ = saved(model, x)
    assert kept == words(600) < trained


def test_nothing_is_kept_without_a_gradient():
    model = compiled(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    x = torch.randn(2, 3, 10, 10)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert saved(model, x)[0] == 0
    assert saved(model.requires_grad_(False), x)[0] == 0
