"""The plan: printable, serialisable, and the recipes it chooses for small models."""

import json

import pytest
import torch
import torch.nn.functional as F
from _exact import assert_exact
from torch import nn

import fxpass
from fxpass.plan import Choice, Plan, Recipe


class Golden(nn.Module):
    """One edge of each kind."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.average, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.pool(F.relu(self.stem(x)))
        y = self.b(F.relu(self.a(x)))
        x = F.relu(y) + y
        return self.head(self.average(x).flatten(1)), F.relu(x)


GOLDEN = """\
x                    input x              module stem            dense
relu                 relu                 relu, module pool      code
pool                 module pool          module a               bitmap
relu_1               relu                 relu, module b         bitmap
relu_2               relu                 relu                   mask
add                  add                  module average         nothing
average              module average       module head            dense
relu_3               relu                 relu                   dense
"""


def test_the_free_plan_of_a_model_with_one_edge_of_each_kind():
    plan = fxpass.compile(Golden()).plan
    expected = [tuple(filter(None, line.split("  "))) for line in GOLDEN.splitlines()]
    found = [(c.value, c.op, ", ".join(c.savers), str(c.recipe)) for c in plan]
    assert found == [tuple(cell.strip() for cell in line) for line in expected]


def test_explain_names_each_value_its_recipe_and_the_reason():
    compiled = fxpass.compile(Golden())
    text = compiled.explain()
    assert text.startswith("the model (Golden)\n")
    assert str(compiled.plan) in text
    for choice in compiled.plan:
        line = next(line for line in text.splitlines() if line.startswith(f"{choice.value} "))
        assert f"  {choice.recipe} " in line
        assert choice.reason
        assert line.endswith(choice.reason)
    assert "the model returns it" in text


def test_what_is_made_of_weights_alone_is_not_made_again():
    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.randn(4, 4)) for _ in range(2))

        def forward(self, x):
            return F.relu(x @ F.relu(self.a)) * torch.sigmoid(self.a + self.b)

    compiled = assert_exact(Weights(), torch.randn(2, 4, 4))
    assert compiled.plan.recipe("relu") is Recipe.DENSE


def test_explain_before_any_trace_says_so():
    class AnyArguments(nn.Module):
        def forward(self, *xs):
            return F.relu(xs[0])

    compiled = fxpass.compile(AnyArguments())
    assert compiled.explain() == "not compiled yet: no call has been traced"
    assert len(compiled.plan) == 0
    compiled(torch.ones(2, requires_grad=True))
    assert "dense" in compiled.explain()


def test_explain_names_the_parts_compiled_on_their_own():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    model[0].register_forward_hook(lambda *_: None)
    compiled = fxpass.compile(model)
    compiled(torch.ones(1, 3, 8, 8))
    assert "\n\n0 (Sequential)\n" in compiled.explain()
    assert "bitmap" in compiled.explain()


def test_a_plan_survives_json():
    plan = fxpass.compile(Golden()).plan
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert str(again) == str(plan)
    assert again.recipe("relu") is Recipe.CODE
    assert json.loads(plan.to_json())["version"] == 1


@pytest.mark.parametrize("text", ["[]", "{}", '{"version": 2, "choices": []}', "no json"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(ValueError, match=r"expected a plan of version 1|Expecting value"):
        Plan.from_json(text)


def test_an_empty_plan_prints():
    assert str(Plan()) == "nothing is saved for backward"
    assert str(Plan((Choice("a", "relu", ("relu",), Recipe.MASK),))).count("\n") == 1


def test_a_value_the_plan_does_not_name_is_dense():
    assert Plan().recipe("anything") is Recipe.DENSE


class Chain(nn.Module):
    """`tail(self, relu)` after a convolution and a ReLU."""

    def __init__(self, tail, inplace=False):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.pool, self.inplace, self.tail = nn.MaxPool2d(2), inplace, tail
        self.linear = nn.Linear(64, 2)

    def forward(self, x):
        y = self.first(x)
        return self.tail(self, F.relu(y, inplace=self.inplace), y)


def both(m, y, x):
    return m.second(y) + m.pool(y).mean()


@pytest.mark.parametrize(
    ("tail", "recipe"),
    [
        (lambda m, y, x: m.second(y), Recipe.BITMAP),
        (lambda m, y, x: m.pool(y), Recipe.CODE),
        (lambda m, y, x: m.pool(y) + x.mean(), Recipe.MASK),  # x has a second reader
        (lambda m, y, x: m.pool(y) + y.mean(), Recipe.MASK),  # y has
        (lambda m, y, x: F.max_pool2d(y, 2, return_indices=True)[0], Recipe.MASK),
        (lambda m, y, x: F.avg_pool2d(y, 2), Recipe.MASK),
        (lambda m, y, x: y + 1, Recipe.MASK),
        (lambda m, y, x: 1 - y, Recipe.MASK),
        (lambda m, y, x: m.linear(y.flatten(1)), Recipe.BITMAP),
        (lambda m, y, x: m.linear(F.dropout(y).flatten(1)), Recipe.MASK),
        (both, Recipe.BITMAP),
        (lambda m, y, x: y, Recipe.DENSE),
        (lambda m, y, x: (m.second(y), y[:, 0]), Recipe.DENSE),
        (lambda m, y, x: m.second(y) * y, Recipe.BITMAP),
        (lambda m, y, x: m.second(y) + torch.erf(y), Recipe.DENSE),
        (lambda m, y, x: m.second(y) + y.data.mul(2), Recipe.DENSE),
        (lambda m, y, x: [m.second(y), {"y": (y,)}], Recipe.DENSE),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_the_recipe_of_a_relu(tail, recipe, inplace):
    plan = fxpass.compile(Chain(tail, inplace)).plan
    assert plan.recipe("relu") is recipe


def test_the_recipe_of_a_dropout_behind_a_relu():
    plan = fxpass.compile(Chain(lambda m, y, x: m.linear(F.dropout(y).flatten(1)))).plan
    assert plan.recipe("dropout") is Recipe.BITMAP


def test_a_value_that_is_written_to_is_not_kept_for_others():
    def tail(m, y, x):
        return m.second(y) + y.add_(1)

    # Eager raises in backward, and so does the convolution whose input is made again.
    assert fxpass.compile(Chain(tail)).plan.recipe("relu") is Recipe.RERUN
    # Nothing is left to make it of.
    assert fxpass.compile(Chain(tail, inplace=True)).plan.recipe("relu") is Recipe.DENSE


@pytest.mark.parametrize(
    "tail",
    [
        lambda m, y, x: (m.second(y) + y.add_(1), x),
        lambda m, y, x: (m.second(y) + y.add_(1), torch.erf(x)),
        lambda m, y, x: (F.silu(x.chunk(2, 1)[0]), x),
        lambda m, y, x: (F.silu(x[:, :2].flatten(1)), m.second(x[:, :4]), torch.erf(x)),
        lambda m, y, x: ((x + 1).mul_(2) * F.silu((x + 1).view(-1)).sum(), x),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_there_is_a_plan_where_little_can_be_made_again(tail, inplace):
    plan = fxpass.compile(Chain(tail, inplace)).plan
    assert len(plan) > 0


def test_an_in_place_relu_is_left_alone_where_its_input_is_seen():
    class Model(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function, self.conv = function, nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return F.max_pool2d(F.relu(self.function(self, x), inplace=True), 2)

    def recipe(function):
        return fxpass.compile(Model(function)).plan.recipe("relu")

    assert recipe(lambda m, x: m.conv(x)) is Recipe.CODE
    assert recipe(lambda m, x: x) is Recipe.MASK  # the user's tensor
    assert recipe(lambda m, x: m.conv(x).view(1, 3, 4, 4)) is Recipe.MASK
    assert recipe(lambda m, x: torch.sigmoid(m.conv(x))) is Recipe.MASK  # eager raises


def test_sparse_values_stay_sparse_through_ops_that_keep_zeros():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x, y):
            sparse = torch.cat([F.max_pool2d(F.relu(x), 2), F.max_pool2d(F.relu(y), 2)], 1)
            mixed = torch.cat([F.relu(x), y], 1)
            return self.a(sparse), self.b(mixed)

    plan = fxpass.compile(Model()).plan
    assert plan.recipe("cat") is Recipe.BITMAP
    assert plan.recipe("cat_1") is Recipe.DENSE


def test_explain_shows_each_rewrite_before_and_after():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    compiled = fxpass.compile(model)
    assert "call_module" not in compiled.explain()
    text = compiled.explain(rewrites=True)
    assert text.startswith(compiled.explain())
    fused = next(block for block in text.split("\n\n") if "fxpass.batch_norm" in block)
    before = [line for line in fused.splitlines() if line.startswith("  - ")]
    assert ["target=1]" in before[0], "target=2]" in before[1], len(before)] == [True, True, 2]
    assert "+ " in fused.splitlines()[2]
    conv = next(block for block in text.split("\n\n") if "target=3]" in block)
    assert "fxpass.conv2d" in conv


def test_print_sums_the_plan_up():
    compiled = fxpass.compile(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    *module, line = str(compiled).splitlines()
    assert "\n".join(module) == repr(compiled)
    assert line == "fxpass: 2 saved values: 1 dense, 1 bitmap (see explain())"


def test_explain_says_that_nothing_was_rewritten():
    text = fxpass.compile(nn.Sequential(nn.Tanhshrink())).explain(rewrites=True)
    assert text.endswith("nothing was rewritten")
