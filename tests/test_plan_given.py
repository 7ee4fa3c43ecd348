"""`fxpass.compile(model, plan=...)`: what is dense in the plan stays dense, and all stays exact."""

import copy
import pickle
import random

import pytest
from _blocks import NETWORKS, conv, image, made
from _broken import Layers
from _exact import assert_exact
from _twins import all_operators, saved_bytes
from hypothesis import given, settings, strategies
from strategies import networks
from test_properties import COMMON, explained, run_all
from torch import nn

import fxpass
from fxpass import Plan
from fxpass._lowering import Lowering
from fxpass._oracle import compare
from fxpass.plan import Choice, Recipe
from fxpass.runtime.module import compiled_module
from fxpass.runtime.unit import Unit


class Two(nn.Module):
    """A part with a hook, which is compiled on its own, behind a ReLU and a convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.second = conv(3), nn.ReLU(), conv()
        self.body = nn.Sequential(conv(), nn.ReLU(), conv(), nn.Dropout(0.2))
        self.body.register_forward_hook(print_nothing)

    def forward(self, x):
        return self.body(self.second(self.relu(self.first(x))))


def print_nothing(*_):
    """A hook that can be pickled."""


def test_a_value_asked_for_is_dense_and_its_ops_are_eagers():
    model = Layers()
    free = fxpass.compile(model)
    asked = fxpass.compile(model, plan=free.plan.with_dense("relu3"))
    assert all_operators(free).count("conv2d") == all_operators(asked).count("conv2d") + 1
    assert all_operators(free).count("relu") == all_operators(asked).count("relu") + 1
    changed = [(a, b) for a, b in zip(free.plan, asked.plan, strict=True) if a != b]
    assert [(a.value, str(a.recipe)) for a, _ in changed] == [("relu3", "bitmap")]
    assert changed[0][1].recipe is Recipe.DENSE
    line = next(line for line in asked.explain().splitlines() if line.startswith("relu3 "))
    assert line.endswith("asked to be dense")
    x = image()
    bytes_of_relu3 = 4 * 8 * 4 * 4 * 4
    extra = saved_bytes(asked, x) - saved_bytes(free, x)
    assert 0 < extra <= bytes_of_relu3
    assert_exact(model, x, compiled=asked)


def test_a_plan_in_which_nothing_is_asked_for_changes_nothing():
    for make in (Layers, Two, *NETWORKS.values()):
        model = make()
        free = fxpass.compile(model)
        free(image())
        again = fxpass.compile(model, plan=free.plan)
        again(image())
        assert again.plan == free.plan
        assert all_operators(again) == all_operators(free)


def test_the_plan_that_came_of_it_gives_the_same_again():
    for make in (Layers, *NETWORKS.values()):
        model = make()
        free = fxpass.compile(model).plan
        for choice in list(free)[1::3]:
            asked = fxpass.compile(model, plan=free.with_dense(choice.value))
            again = fxpass.compile(model, plan=asked.plan)
            assert again.plan == asked.plan
            assert all_operators(again) == all_operators(asked)


def test_a_plan_of_the_users_own_making():
    by_hand = Plan((Choice("relu3", "", (), Recipe.DENSE),))
    model = Layers()
    asked = fxpass.compile(model, plan=by_hand)
    assert asked.plan == fxpass.compile(model, plan=asked.plan.with_dense("relu3")).plan
    as_text = fxpass.compile(model).plan.to_json()
    assert as_text.count('"bitmap"') == 3
    edited = Plan.from_json(as_text.replace('"bitmap"', '"dense"'))
    dense = [c.value for c in fxpass.compile(model, plan=edited).plan if c.fixed]
    assert dense == ["act6", "pool", "relu3"]


@pytest.mark.parametrize("name", NETWORKS)
def test_each_value_of_a_network_can_stay_dense(name):
    model = made(name)
    plan = fxpass.compile(model).plan
    for choice in list(plan)[1::2]:
        compiled = fxpass.compile(model, plan=plan.with_dense(choice.value))
        found = next(c for c in compiled.plan if c.value == choice.value)
        assert (found.recipe, found.fixed) == (Recipe.DENSE, True)
        assert_exact(model, image(), compiled=compiled, steps=2, note=choice.value)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, derandomize=True, **COMMON)
@given(networks(), strategies.randoms(use_true_random=False))
def test_any_values_of_a_random_network_can_stay_dense(network, chance):
    def compiled(model, inputs):
        plan = fxpass.compile(model, inputs).plan
        values = [c.value for c in plan if chance.random() < 0.4]
        return fxpass.compile(model, inputs, plan=plan.with_dense(*values))

    first, found = run_all(network, compiled)
    assert not compare(first, found), explained(network, first, found)


def rewritten_in_part(model, seed):
    """The model compiled with each of its ops rewritten or not, by chance."""

    class Some(frozenset):
        def __contains__(self, name):
            return random.Random(f"{name} {seed}").random() < 0.5

    return compiled_module(model, Unit(model, Lowering(model, only=Some()), lambda *_: None))


@pytest.mark.parametrize("name", NETWORKS)
def test_any_ops_of_a_network_can_stay_as_they_are(name):
    model = made(name)
    for seed in range(6):
        compiled = rewritten_in_part(model, seed)
        assert_exact(model, image(), compiled=compiled, steps=2, note=seed)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, derandomize=True, **COMMON)
@given(networks(), strategies.randoms(use_true_random=False))
def test_any_ops_of_a_random_network_can_stay_as_they_are(network, chance):
    def compiled(model, inputs):
        return rewritten_in_part(model, chance.random())

    first, found = run_all(network, compiled)
    assert not compare(first, found), explained(network, first, found)


# ---- copies, parts, modes --------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_keep_to_the_plan(copied):
    plan = fxpass.compile(Layers()).plan.with_dense("relu3", "gate")
    twin = copied(fxpass.compile(Layers(), plan=plan))
    assert len(twin.plan) == 0
    twin(image())
    assert [c.value for c in twin.plan if c.fixed] == ["relu3", "gate"]
    again = copied(twin.eval())
    again(image())
    assert [c.value for c in again.plan if c.fixed] == ["relu3", "gate"]


def test_a_plan_survives_json_and_pickle():
    plan = fxpass.compile(Layers()).plan.with_dense("relu3")
    assert Plan.from_json(plan.to_json()) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    old = plan.to_json().replace('"fixed"', '"reason"')
    assert "fixed" not in old
    assert not any(c.fixed for c in Plan.from_json(old))


def test_values_of_a_part_are_named_with_its_path():
    model = Two()
    compiled = fxpass.compile(model)
    assert compiled.plan.parts() == {""}
    compiled(image())
    assert compiled.plan.parts() == {"", "body"}
    asked = fxpass.compile(model, plan=compiled.plan.with_dense("body:_1"))
    asked(image())
    assert asked.plan.recipe("body:_1") is Recipe.DENSE
    assert asked.plan.recipe("relu") is Recipe.BITMAP
    assert asked.explain().count("asked to be dense") == 1
    assert_exact(model, image(), compiled=asked)
    with pytest.raises(ValueError, match=r"body:_1.*got body:relu"):
        compiled.plan.with_dense("body:relu")


def test_a_compiled_model_is_compiled_anew_with_a_plan():
    compiled = fxpass.compile(Layers())
    asked = fxpass.compile(compiled, plan=compiled.plan.with_dense("relu3"))
    assert asked.original is compiled.original
    assert asked.plan.recipe("relu3") is Recipe.DENSE
    assert compiled.plan.recipe("relu3") is Recipe.BITMAP


def test_other_modes_and_forms_of_call_need_not_have_the_values():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.next = conv(3), conv()

        def forward(self, x, with_relu=True):
            y = self.conv(x)
            if self.training and with_relu:
                y = y.relu()
            return self.next(y)

    plan = fxpass.compile(Branches()).plan.with_dense("relu")
    compiled = fxpass.compile(Branches(), plan=plan)
    x = image()
    assert compiled(x, False).requires_grad
    assert compiled.eval()(x).requires_grad
    twin = copy.deepcopy(compiled)
    assert twin(x).requires_grad  # its first graph is that of eval mode


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["relu3", {"relu3": "dense"}, Plan])
def test_a_plan_that_is_none(plan):
    with pytest.raises(TypeError, match=r"expected plan to be a fxpass.Plan, got builtins\.\w+; "):
        fxpass.compile(Layers(), plan=plan)


def test_values_that_the_plan_does_not_know():
    plan = fxpass.compile(Layers()).plan
    with pytest.raises(ValueError, match=r"\(x, stem, relu, .*\), got relu_9, y"):
        plan.with_dense("relu3", "relu_9", "y")
    with pytest.raises(ValueError, match="it has none"):
        Plan().with_dense("relu")


def test_values_that_the_model_does_not_have():
    layers = fxpass.compile(Layers()).plan
    with pytest.raises(ValueError, match=r"values of the model \(input_1, _0.*got x, stem, relu"):
        fxpass.compile(made("residual"), plan=layers)
    with pytest.raises(ValueError, match="plan of this Layers, got one with values of tail"):
        fxpass.compile(Layers(), plan=layers.at("tail"))
    compiled = fxpass.compile(Two(), plan=layers.at("body"))
    with pytest.raises(ValueError, match=r"values of body \(input_1, _0.*\), got x, stem"):
        compiled(image())
