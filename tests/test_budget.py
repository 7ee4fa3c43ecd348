"""compile(memory_budget=...): the plan fits, the bits are eager's, the peak was known before."""

import gc
import pickle
import re

import pytest
import torch
from _exact import assert_exact
from test_rerun_everything import Bottleneck
from torch import nn

import fxpass
from fxpass import memory
from fxpass.budget import Planner
from fxpass.budget.amount import budget_bytes


def net(blocks=3):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    for i in range(blocks):
        layers += [nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
        layers += [nn.ReLU() if i % 2 else nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


IMAGES = torch.linspace(-2, 2, 4 * 3 * 32 * 32).sin().mul(3).view(4, 3, 32, 32)


def measured(model, *inputs):
    """(peak, saved) bytes of a step."""
    for parameter in model.parameters():
        parameter.grad = None
    with memory.track() as tracked:
        output = model(*inputs)
        saved = tracked.live_bytes
        output.sum().backward()
    return tracked.peak_bytes, saved


def check_prediction(compiled, *inputs):
    """Fails unless a step takes what was predicted, within 2 %, and fits the budget."""
    prediction = compiled.plan.prediction
    measured(compiled, *inputs)  # what is made once
    peak, saved = measured(compiled, *inputs)
    assert abs(peak / prediction.peak_bytes - 1) <= 0.02
    assert abs(saved / prediction.saved_bytes - 1) <= 0.02
    assert peak <= prediction.memory_budget
    return prediction


@pytest.mark.parametrize("budget", [1.0, 0.67, 0.64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_budget_is_kept(budget, channels_last):
    form = torch.channels_last if channels_last else torch.contiguous_format
    model, images = net().to(memory_format=form), IMAGES.to(memory_format=form)
    compiled = fxpass.compile(model, (images,), memory_budget=budget)
    check_prediction(compiled, images)
    assert_exact(model, images, compiled=compiled)


def test_what_eager_takes_is_predicted_too():
    model = net()
    prediction = fxpass.plan(model, (IMAGES,), 1.0).prediction
    measured(model, IMAGES)
    peak, saved = measured(model, IMAGES)
    assert abs(peak / prediction.eager_peak_bytes - 1) <= 0.02
    assert abs(saved / prediction.eager_saved_bytes - 1) <= 0.02


def test_a_smaller_budget_keeps_less_and_runs_more_again():
    model = net()
    large, small = (fxpass.plan(model, (IMAGES,), budget) for budget in (0.9, 0.64))
    assert small.prediction.saved_bytes < large.prediction.saved_bytes
    again = [choice.reason for choice in small if choice.reason.startswith("conv2d again")]
    assert again
    assert all(re.search(r"saves 0\.25 MiB for [0-9.e-]+ ms", reason) for reason in again)
    assert not any(choice.reason.startswith("conv2d again") for choice in large)


def test_a_block_with_everything_in_it():
    model = Bottleneck()
    images = IMAGES[:, :, :8, :8].contiguous()
    compiled = fxpass.compile(model, (images,), memory_budget="1MiB")
    check_prediction(compiled, images)
    assert_exact(model, images, compiled=compiled)


def test_an_input_that_needs_a_gradient():
    model, images = net(), IMAGES.clone().requires_grad_()
    check_prediction(fxpass.compile(model, (images,), memory_budget=0.65), images)


def test_frozen_layers_cost_nothing():
    model = net()
    for parameter in model[:6].parameters():
        parameter.requires_grad_(False)
    check_prediction(fxpass.compile(model, (IMAGES,), memory_budget=0.9), IMAGES)


def test_an_impossible_budget_names_the_smallest_peak():
    with pytest.raises(
        fxpass.BudgetError, match=r"budget of 1,000 bytes.*smallest peak found"
    ) as e:
        fxpass.compile(net(), (IMAGES,), memory_budget="1KB")
    smallest = int(str(e.value).split("inputs is ")[1].split(" bytes")[0].replace(",", ""))
    plan = fxpass.plan(net(), (IMAGES,), smallest)
    assert plan.predicted_peak_bytes <= smallest


def test_eagers_own_peak_is_a_budget_that_every_model_has():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    compiled = fxpass.compile(model, (IMAGES,), memory_budget=1.0)
    check_prediction(compiled, IMAGES)
    assert all(choice.recipe == "dense" for choice in compiled.plan)
    assert_exact(model, IMAGES, compiled=compiled)


def test_planning_prints_nothing(capfd):
    plan = fxpass.plan(net(), (IMAGES,), 0.64)
    assert capfd.readouterr() == ("", "")
    assert 0 <= plan.prediction.gap < 0.01
    assert "gap of the solution 0." in str(plan)
    assert fxpass.Plan.from_json(plan.to_json()) == plan
    assert fxpass.plan(net(), (IMAGES,), 1.0).prediction.gap is None


def test_planning_leaves_nothing_in_memory():
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True))
    fxpass.plan(model, (IMAGES,), 0.9)  # what is made once
    gc.collect()
    with memory.track() as tracked:
        fxpass.plan(model, (IMAGES,), 0.9)
        gc.collect()
        assert tracked.live_bytes < 1000


def test_planning_leaves_the_model_as_it_was():
    model = net()
    model(IMAGES).sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    fxpass.plan(model, (IMAGES,), 0.65)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))


def test_a_plan_is_followed_without_measuring_again(monkeypatch):
    model = net()
    plan = fxpass.plan(model, (IMAGES,), 0.65)
    monkeypatch.setattr(Planner, "__init__", None)
    again = fxpass.compile(model, plan=fxpass.Plan.from_json(plan.to_json()))
    assert again(IMAGES).shape == (4, 4)
    assert again.plan == plan
    check_prediction(again, IMAGES)


def test_pickle_and_evaluation():
    model = net()
    compiled = fxpass.compile(model, (IMAGES,), memory_budget=0.65)
    again = pickle.loads(pickle.dumps(compiled))
    measured(again, IMAGES)
    assert again.plan == compiled.plan
    assert_exact(model.eval(), IMAGES, compiled=compiled)


def test_replan_between_steps():
    model = net()
    compiled = fxpass.compile(model, (IMAGES,), memory_budget=1.0)
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1, momentum=0.9)
    twin = net()
    twin_optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for budget in (0.9, 0.65, None):
        for m, o in ((compiled, optimizer), (twin, twin_optimizer)):
            o.zero_grad()
            m(IMAGES).sum().backward()
            o.step()
        pairs = zip(model.parameters(), twin.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        plan = compiled.replan(memory_budget=budget)
        assert (plan.prediction is None) == (budget is None)
        if budget is not None:
            check_prediction(compiled, IMAGES)
            twin.load_state_dict(model.state_dict())  # the statistics of those steps


def test_a_replan_that_fails_changes_nothing():
    compiled = fxpass.compile(net(), (IMAGES,), memory_budget=0.65)
    before = compiled.plan
    with pytest.raises(fxpass.BudgetError):
        compiled.replan(memory_budget=1)
    assert compiled.plan == before
    check_prediction(compiled, IMAGES)


def test_a_replan_needs_a_budget_to_begin_with():
    with pytest.raises(TypeError, match="compile it with memory_budget"):
        fxpass.compile(net(), (IMAGES,)).replan(memory_budget=0.5)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (1000, 1000), ("300MB", 300_000_000), ("1.5GiB", 3 * 2**29), (" 2 kib ", 2048),
        (0.5, 500), (1.0, 1000), ("7B", 7),
    ],
)  # fmt: skip
def test_amounts(budget, expected):
    assert budget_bytes(budget, 1000) == expected


@pytest.mark.parametrize("budget", ["", "12", "GB", "5 XB", "-3MB", 0, -5, 0.0, 1.5, float("nan")])
def test_amounts_that_cannot_be_meant(budget):
    with pytest.raises(ValueError, match="memory_budget"):
        budget_bytes(budget, 1000)


@pytest.mark.parametrize("budget", [True, [1], b"1MB"])
def test_amounts_of_the_wrong_type(budget):
    with pytest.raises(TypeError, match="memory_budget"):
        fxpass.compile(net(1), (IMAGES,), memory_budget=budget)


def test_a_budget_needs_example_inputs_and_no_plan():
    with pytest.raises(TypeError, match="memory_budget needs example_inputs"):
        fxpass.compile(net(1), memory_budget=0.5)
    plan = fxpass.compile(net(1)).plan
    with pytest.raises(ValueError, match="expected memory_budget or plan"):
        fxpass.compile(net(1), (IMAGES,), memory_budget=0.5, plan=plan)


class Split(nn.Module):
    """Its control flow depends on values."""

    def __init__(self):
        super().__init__()
        self.inner = net(1)

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


@pytest.mark.filterwarnings("ignore")
def test_a_model_in_parts_is_refused():
    with pytest.raises(fxpass.TraceError, match="traces as one graph"):
        fxpass.compile(Split(), (IMAGES,), memory_budget=0.5)
