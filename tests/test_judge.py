"""The judge's figures against the allocator's, of plans of all kinds."""

import pytest
import torch
from _everything_again import everything_again, graph_of
from _threads import torch_threads
from test_budget import measured, net
from test_rerun_everything import Bottleneck
from torch import nn

import fxpass
from fxpass._preserved import preserved
from fxpass.budget.judge import judge
from fxpass.budget.survey import Survey, survey
from fxpass.cli.imports import imported


class Dense(nn.Module):
    """Concatenations, whose gradients are views; a dropout; products of two values."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8 + 8 * i, 8, 3, padding=1) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 8 * i) for i in range(3))
        self.head, self.gate = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(32, 32)
        self.drop, self.pool, self.out = nn.Dropout(0.3), nn.MaxPool2d(2), nn.Linear(32, 4)

    def forward(self, x):
        x = self.head(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        y = self.pool(x).mean((2, 3))
        return self.out(self.drop(y * torch.sigmoid(self.gate(y))))


class Shuffle(nn.Module):
    """Chunks, one of which goes through unchanged, and a copy in another order."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        x = self.head(x)
        for conv in self.convs:
            a, b = x.chunk(2, 1)
            x = torch.cat([a, torch.relu(conv(b))], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.out(x.mean((2, 3)))


def torchvision(name):
    return getattr(imported("torchvision.models"), name)(weights=None)


MODELS = {
    "chain": net,
    "bottleneck": Bottleneck,
    "dense": Dense,
    "shuffle": Shuffle,
    "resnet18": lambda: torchvision("resnet18"),
    "mobilenet_v2": lambda: torchvision("mobilenet_v2"),
    "squeezenet1_1": lambda: torchvision("squeezenet1_1"),
}


@pytest.mark.parametrize("plan", ["eager", "free", "everything again", "let go at once"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_peak_and_saved_bytes(name, channels_last, plan):
    form = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    side = {"bottleneck": 8, "chain": 32, "dense": 32, "shuffle": 32}.get(name, 64)
    images = torch.randn(4, 3, side, side).to(memory_format=form)
    model = MODELS[name]().to(memory_format=form)
    graph, called = made(model, images, plan)
    found = Survey()
    with preserved(model, (images,)):
        survey(model, graph, (images,), found)
    verdict = judge(model, graph, found)
    measured(called, images)
    peak, saved = measured(called, images)
    assert abs(verdict.saved_bytes - saved) <= 0.02 * peak
    assert abs(verdict.peak_bytes / peak - 1) <= 0.02
    assert verdict.seconds > 0


@pytest.mark.parametrize("name", ["chain", "bottleneck", "dense", "shuffle"])
def test_on_one_thread(name):
    """Where small convolutions take other kernels, others of a step's ops make its peak."""
    with torch_threads(1):
        test_peak_and_saved_bytes(name, channels_last=False, plan="free")


def made(model, images, plan):
    """The graph of a plan, and what runs it."""
    if plan == "eager":
        compiled = fxpass.compile(model, (images,), memory_budget=1.0)
        return compiled._fxpass_replanned._planner()._capture.graph, model
    if plan == "free":
        compiled = fxpass.compile(model, (images,))
    else:
        compiled = everything_again(model, let_go_every=int(plan == "let go at once"))
        with preserved(model, (images,)):
            compiled(images)
    return graph_of(compiled), compiled


class HalfFrozen(nn.Module):
    """Two batch norms of one form, of which one trains and one does not; likewise dropouts."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.drops = nn.ModuleList(nn.Dropout(0.5) for _ in range(2))

    def forward(self, x):
        x = self.head(x)
        for norm, drop in zip(self.norms, self.drops, strict=True):
            x = drop(torch.relu(norm(x)))
        return x.mean((2, 3))


def test_two_calls_alike_but_for_the_mode():
    model, images = HalfFrozen(), torch.randn(4, 3, 32, 32)
    model.norms[1].eval()
    model.drops[0].eval()
    graph, called = made(model, images, "eager")
    found = Survey()
    with preserved(model, (images,)):
        survey(model, graph, (images,), found)
    measured(called, images)
    peak, saved = measured(called, images)
    verdict = judge(model, graph, found)
    assert abs(verdict.saved_bytes - saved) <= 0.02 * peak
