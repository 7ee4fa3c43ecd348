"""A memory budget with fxpass.optim.in_backward: the plan counts on gradients that are freed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from _twins import assert_same, bits
from test_budget import IMAGES, net
from torch import nn, optim

import fxpass
from fxpass import memory
from fxpass.optim import in_backward

OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-4),
    "nesterov": lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, foreach=True),
    "Adam": lambda p: optim.Adam(p, lr=1e-3),
    "AdamW": lambda p: optim.AdamW(p, lr=1e-3, amsgrad=True),
    "Adafactor": lambda p: optim.Adafactor(p, lr=1e-3),
}


def wide(width=384):
    """Most of the peak are the gradients of linear layers, none of which is most of the sum."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(8)]
    layers += [nn.Flatten(), nn.Linear(8 * 4 * 4, width), nn.ReLU(), nn.Dropout()]
    for _ in range(8):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


class Shared(nn.Module):
    """One weight read three times, once as it is and twice through its transpose; one frozen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.turn = nn.Linear(3 * 32 * 32, 128), nn.Linear(128, 128)
        self.frozen = nn.Linear(128, 128).requires_grad_(False)
        self.last = nn.Linear(128, 4)

    def forward(self, x):
        x = F.relu(self.turn(F.relu(self.first(x.flatten(1)))))
        x = F.relu(self.frozen(F.linear(x, self.turn.weight.t())))
        return self.last(F.relu(self.turn(x)))


def step(model, optimizer, x=IMAGES):
    """The most bytes that are live in forward and backward."""
    optimizer.zero_grad()
    with memory.track() as tracked:
        F.cross_entropy(model(x), torch.arange(len(x)) % 4).backward()
    optimizer.step()
    return tracked.peak_bytes


def check_prediction(compiled, optimizer):
    """Fails unless a step takes what was predicted, within 2 %, and fits the budget."""
    prediction = compiled.plan.prediction
    assert prediction.in_backward
    step(compiled, optimizer)  # makes the state
    peak = step(compiled, optimizer)
    assert abs(peak / prediction.peak_bytes - 1) <= 0.02
    assert peak <= prediction.memory_budget
    return prediction


def gradient_bytes(model):
    return sum(p.nbytes for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("make", [net, wide, Shared])
def test_the_peak_is_the_predicted_one(make, kind):
    model = make()
    optimizer = OPTIMIZERS[kind](model.parameters())
    in_backward(optimizer)
    check_prediction(fxpass.compile(model, (IMAGES,), memory_budget=1.0), optimizer)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("make", [net, wide, Shared])
def test_eager_is_judged_so_too(make, kind):
    model = make()
    optimizer = OPTIMIZERS[kind](model.parameters())
    in_backward(optimizer)
    prediction = fxpass.plan(model, (IMAGES,), 1.0).prediction
    step(model, optimizer)
    assert abs(step(model, optimizer) / prediction.eager_peak_bytes - 1) <= 0.02


def test_a_budget_below_the_sum_of_the_gradients():
    model = wide()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    below = gradient_bytes(model) // 2
    with pytest.raises(fxpass.BudgetError):
        fxpass.compile(model, (IMAGES,), memory_budget=below)
    in_backward(optimizer)
    compiled = fxpass.compile(model, (IMAGES,), memory_budget=below)
    check_prediction(compiled, optimizer)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("make", [net, Shared])
def test_three_steps_leave_what_the_plain_loop_leaves(make, kind):
    seen = []
    for inside in (False, False, True):
        model = make()
        optimizer = OPTIMIZERS[kind](model.parameters())
        if inside:
            in_backward(optimizer)
            model = fxpass.compile(model, (IMAGES,), memory_budget=1.0)
        for i in range(3):
            step(model, optimizer, IMAGES.roll(i))
        seen.append(bits([dict(model.state_dict()), copy.deepcopy(optimizer.state_dict())]))
    assert_same(seen[0], seen[1])
    assert_same(seen[0], seen[2])


def test_nothing_is_updated_while_planning():
    model = net()
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    in_backward(optimizer)
    for _ in range(2):  # without a state, and with one
        before = bits([dict(model.state_dict()), copy.deepcopy(optimizer.state_dict())])
        random, grads = torch.get_rng_state(), [p.grad for p in model.parameters()]
        fxpass.plan(model, (IMAGES,), 0.9)
        assert_same(before, bits([dict(model.state_dict()), optimizer.state_dict()]))
        assert torch.equal(random, torch.get_rng_state())
        assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
        step(model, optimizer)


def test_a_replan_sees_the_handle_that_came_and_the_one_that_went():
    model = wide()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    compiled = fxpass.compile(model, (IMAGES,), memory_budget=1.0)
    plain = compiled.plan.prediction
    assert not plain.in_backward
    handle = in_backward(optimizer)
    inside = compiled.replan(memory_budget=1.0).prediction
    assert inside.peak_bytes < plain.peak_bytes
    check_prediction(compiled, optimizer)
    handle.remove()
    for parameter in model.parameters():
        parameter.grad = None
    assert compiled.replan(memory_budget=1.0).prediction == plain


def test_the_smallest_peak_is_that_of_the_updates_at_hand():
    model = wide()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    compiled = fxpass.compile(model, (IMAGES,), memory_budget=1.0)
    smallest = []
    for enter in (lambda: None, lambda: in_backward(optimizer)):
        enter()
        with pytest.raises(fxpass.BudgetError) as error:
            compiled.replan(memory_budget=1)
        smallest.append(error.value.smallest_bytes)
    assert smallest[1] < gradient_bytes(model) <= smallest[0]


def test_the_plan_says_so_and_its_json_keeps_it():
    model = net()
    plain = fxpass.plan(model, (IMAGES,), 1.0)
    assert "inside backward" not in str(plain)
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    in_backward(optimizer)
    plan = fxpass.plan(model, (IMAGES,), 1.0)
    assert "inside backward" in str(plan)
    again = fxpass.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.prediction.in_backward
    older = plain.to_json().replace(',\n  "in_backward": false', "")
    assert "in_backward" not in older
    assert fxpass.Plan.from_json(older) == plain


def test_a_plan_made_without_is_followed_with_updates_inside():
    model = wide()
    plan = fxpass.plan(model, (IMAGES,), 1.0)
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    in_backward(optimizer)
    compiled = fxpass.compile(model, plan=plan)
    step(compiled, optimizer)
    assert step(compiled, optimizer) < plan.prediction.peak_bytes


def test_one_shared_gradient_is_counted_once_without_updates_too():
    model = Shared()
    prediction = fxpass.plan(model, (IMAGES,), 1.0).prediction
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step(model, optimizer)
    assert abs(step(model, optimizer) / prediction.eager_peak_bytes - 1) <= 0.02
