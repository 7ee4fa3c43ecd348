"""Schedules of a model's chain of blocks: as many runs as they say, eager's bits, the peak told."""

import pytest
import torch
from _exact import assert_exact
from test_budget import check_prediction
from torch import nn
from torch.autograd.profiler import profile

import fxpass
from fxpass import Plan
from fxpass.budget import Planner
from fxpass.budget.chain.blocks import blocks_of
from fxpass.budget.chain.kept import kept_by
from fxpass.schedule import Chain, advances, revolve, uniform

IMAGES = torch.linspace(-2, 2, 2 * 3 * 16 * 16).sin().mul(3).view(2, 3, 16, 16)
KINDS = ("uniform", "revolve", "optimal")


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def plain_chain(length):
    """Equal blocks, each a convolution and a ReLU."""
    torch.manual_seed(0)
    layers = [conv(3, 4), nn.ReLU()]
    for _ in range(length - 1):
        layers += [conv(4, 4), nn.ReLU()]
    return nn.Sequential(*layers)


def with_norms():
    torch.manual_seed(0)
    layers = [conv(3, 8), nn.BatchNorm2d(8), nn.ReLU()]
    for i in range(7):
        layers += [conv(8, 8), nn.BatchNorm2d(8), nn.SiLU() if i % 3 == 2 else nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


class Residual(nn.Module):
    """Blocks whose input is read twice, one dropout, in-place ops."""

    def __init__(self):
        super().__init__()
        self.head = conv(3, 8)
        self.convs = nn.ModuleList(conv(8, 8) for _ in range(6))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(6))
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.head(x))
        for i, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(layer(x))
            y += x
            x = y.relu_()
            if i == 3:
                x = self.drop(x)
        return self.out(x.mean((2, 3)))


def residual():
    torch.manual_seed(0)
    return Residual()


MODELS = {"plain": lambda: plain_chain(8), "with norms": with_norms, "residual": residual}


def plan_of(planner, schedule):
    """The plan that runs the model by a schedule, and the number of its blocks."""
    chain = planner._chain
    kept = kept_by(chain._values, chain._blocks, schedule, chain._free)
    found = planner._search.found(kept)
    return found.plan.predicted(planner._prediction(10**9, found))


def layers_run_again(compiled, images):
    loss = compiled(images).sum()
    with profile() as profiled:
        loss.backward()
    return sum(event.name == "aten::convolution" for event in profiled.function_events)


@pytest.mark.parametrize("length", [2, 5, 10, 13])
@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_revolve_runs_as_many_layers_again_as_its_closed_form_says(length, slots):
    model = plain_chain(length)
    planner = Planner(model, (IMAGES,))
    plan = plan_of(planner, revolve(Chain.equal(length), slots))
    compiled = fxpass.compile(model, (IMAGES,), plan=plan)
    # The first sweep, which is the forward itself, is no run in backward.
    assert layers_run_again(compiled, IMAGES) == advances(length, slots) - (length - 1)


@pytest.mark.parametrize("segments", [2, 3, 5])
def test_uniform_segments_run_each_layer_again_once_but_for_the_last_segment(segments):
    length = 10
    model = plain_chain(length)
    plan = plan_of(Planner(model, (IMAGES,)), uniform(Chain.equal(length), segments))
    compiled = fxpass.compile(model, (IMAGES,), plan=plan)
    size = length // segments
    # What the last layer of a segment returns is kept already, as the next one's input.
    assert layers_run_again(compiled, IMAGES) == (segments - 1) * (size - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_bits_are_eagers_and_the_peak_is_known(name, kind):
    model = MODELS[name]()
    planner = Planner(model, (IMAGES,))
    with pytest.raises(fxpass.BudgetError) as least:
        planner.plan(1, kind)
    middle = (least.value.smallest_bytes + planner.free.verdict.peak_bytes) // 2
    for budget in {least.value.smallest_bytes, middle}:
        plan = fxpass.plan(model, (IMAGES,), budget, planner=kind)
        compiled = fxpass.compile(model, plan=Plan.from_json(plan.to_json()))
        check_prediction(compiled, IMAGES)
        assert_exact(model, IMAGES, compiled=compiled)


def test_optimal_is_never_slower_on_paper_than_the_others():
    planner = Planner(residual(), (IMAGES,))
    for budget in (0.9, 0.8, 0.7):
        seconds = {}
        for kind in KINDS:
            try:
                seconds[kind] = planner.plan(budget, kind).predicted_seconds
            except fxpass.BudgetError:
                continue
        # It counts in units, and by the blocks' costs, not by the judge's.
        assert seconds["optimal"] <= 1.1 * min(seconds.values())


def test_the_blocks_of_a_residual_network_are_its_blocks():
    planner = Planner(residual(), (IMAGES,))
    blocks = blocks_of(planner._search.values())
    layers = [
        sum("conv" in str(node.target) or "head" in str(node.target) for node in block.nodes)
        for block in blocks
    ]
    assert layers == [1] * 7 + [0]  # the last one's layer is linear


class NoChain(nn.Module):
    """The input is read to the very end."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 3), conv(3, 3)

    def forward(self, x):
        return torch.cat([self.b(torch.relu(self.a(x))), x], 1)


def test_a_model_that_is_no_chain_says_so():
    assert fxpass.plan(NoChain(), (IMAGES,), 1.0, planner="revolve")
    with pytest.raises(fxpass.BudgetError, match=r"'revolve' \(the model is no chain of blocks\)"):
        fxpass.plan(NoChain(), (IMAGES,), 1000, planner="revolve")


def test_the_free_planner_runs_no_layer_again():
    model = with_norms()
    plan = fxpass.plan(model, (IMAGES,), 1.0, planner="free")
    assert layers_run_again(fxpass.compile(model, plan=plan), IMAGES) == 0
    with pytest.raises(fxpass.BudgetError, match="by the planner 'free'"):
        fxpass.plan(model, (IMAGES,), 1000, planner="free")


def test_an_unknown_planner():
    expected = "expected planner to be one of op, free, uniform, revolve, optimal, got 'best'"
    with pytest.raises(ValueError, match=expected):
        fxpass.plan(with_norms(), (IMAGES,), 1.0, planner="best")
