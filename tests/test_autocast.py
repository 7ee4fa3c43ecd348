"""The compiled module in a CPU autocast region: eager's bits, fewer bytes, our operators."""

import copy

import pytest
import torch
import torch.nn.functional as F
from _autocast import BF16, Branches, check, conv_relu, images, region
from _blocks import NETWORKS
from _twins import is_compiled, nodes, operators, saved_bytes
from torch import nn

import fxpass


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


def test_pools_and_padding_again():
    check(Branches(), images(2, 2, 8, 8, 8), share=0.4)


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


def test_relu_into_linear():
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 1))
    check(model, images(400, 64), share=0.8)
