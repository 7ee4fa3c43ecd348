"""The edges: one form for all spellings, whose storage is whose, and who saves what."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from fxpass.capture import ArgPattern, capture
from fxpass.edges import find_edges
from fxpass.edges.table import OF_FUNCTION, OF_METHOD, OF_MODULE, TABLE


class Calls(nn.Module):
    """Runs `function(self, *tensors)`, with some layers to call."""

    def __init__(self, function, **members):
        super().__init__()
        self.function = function
        self.conv, self.relu, self.bn = nn.Conv2d(1, 1, 1), nn.ReLU(), nn.BatchNorm2d(1)
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *xs):
        return self.function(self, *xs)


def edges_of(function, inputs=1, **members):
    model = Calls(function, **members)
    captured = capture(model, ArgPattern.of((torch.empty(0),) * inputs, {}))
    return find_edges(captured.graph, model, hooked=captured.hooked)


def node_of(edges, name):
    """The first node whose call is of the op `name`, or whose target is."""
    for node in edges.graph.nodes:
        call = edges.calls.get(node)
        if (call and call.op.name == name) or name in (node.target, node.name):
            return node
    raise LookupError(f"no {name} in {edges.graph}")


@pytest.mark.parametrize(
    ("function", "inplace"),
    [
        (lambda m, x: m.relu(x), False),
        (lambda m, x: F.relu(x), False),
        (lambda m, x: F.relu(x, inplace=True), True),
        (lambda m, x: F.relu(input=x, inplace=True), True),
        (lambda m, x: F.relu_(x), True),
        (lambda m, x: torch.relu(x), False),
        (lambda m, x: torch.relu_(x), True),
        (lambda m, x: x.relu(), False),
        (lambda m, x: x.relu_(), True),
    ],
)
def test_a_relu_is_one_call_however_it_is_spelled(function, inplace):
    edges = edges_of(function)
    call = edges.calls[node_of(edges, "relu")]
    assert call.arguments["inplace"] is inplace
    assert [node.op for node in call.inputs] == ["placeholder"]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x, w: F.conv2d(x, w, None, 2, 1),
        lambda m, x, w: F.conv2d(input=x, weight=w, stride=2, padding=1),
        lambda m, x, w: torch.conv2d(x, w, stride=2, padding=1),
        lambda m, x, w: m.strided(x),
    ],
)
def test_a_conv_is_one_call_however_it_is_spelled(function):
    edges = edges_of(function, inputs=2, strided=nn.Conv2d(1, 1, 3, 2, 1))
    arguments = edges.calls[node_of(edges, "conv2d")].arguments
    assert {2, (2, 2)} >= {arguments["stride"]}
    assert {1, (1, 1)} >= {arguments["padding"]}
    assert arguments["groups"] == 1


class OwnForward(nn.ReLU):
    def forward(self, x):
        return torch.erf(super().forward(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.max_pool2d(x, x.size(2)),  # known only when it runs
        lambda m, x: torch.add(x, x, out=x),
        lambda m, x: x.data,
        lambda m, x: x.T,
        lambda m, x: m.own(x),
        lambda m, x: torch.erf(x),
    ],
    ids=["argument", "out", "data", "T", "own forward", "no row"],
)
def test_what_is_not_surely_a_known_op_is_none(function):
    edges = edges_of(function, own=OwnForward())
    last = next(iter(reversed(edges.graph.nodes))).args[0]
    assert last not in edges.calls
    assert last in edges.strangers(last.all_input_nodes[0])


def test_an_overridden_forward_on_the_instance_is_unknown():
    relu = nn.ReLU()
    edges = edges_of(lambda m, x: m.own(x), own=relu)
    assert node_of(edges, "own") in edges.calls
    relu.forward = lambda x: x
    assert not find_edges(edges.graph, Calls(None, own=relu)).calls


def test_a_view_lies_in_the_storage_of_its_value():
    edges = edges_of(lambda m, x: m.conv(m.relu(x).flatten(1)[0]).sum())
    relu = node_of(edges, "relu")
    names = [edges.calls[n].op.name for n in edges.storage(relu)]
    assert names == ["relu", "view", "view"]
    assert [saver.op.name for saver in edges.savers(relu)] == ["relu", "conv2d"]
    assert edges.strangers(relu) == []


def test_an_in_place_sum_writes_its_first_argument_and_reads_the_second():
    def residual(m, x):
        y = m.relu(x)
        z = m.bn(m.conv(y))
        z += y
        return torch.sum(z)

    edges = edges_of(residual)
    iadd = next(n for n in edges.graph.nodes if n.target is operator.iadd)
    assert edges.strangers(node_of(edges, "relu")) == []
    assert edges.strangers(iadd.args[0]) == [iadd]
    assert [call.node for call in edges.writers(iadd.args[0])] == [iadd]
    # What it leaves there is a value of its own, with savers of its own.
    assert edges.storage(iadd.args[0]) == [iadd.args[0]]
    assert iadd not in edges.storage(node_of(edges, "relu"))
    assert edges.writers(iadd) == edges.strangers(iadd) == []


def test_which_values_nobody_else_can_see():
    def forward(m, x):
        return m.conv(x), m.bn(x), m.relu(x), x.view(-1), torch.sigmoid(x), m.hooked(x)

    hooked = nn.Conv2d(1, 1, 1)
    hooked.register_forward_hook(lambda *_: None)
    edges = edges_of(forward, hooked=hooked)
    new = {n.name for n in edges.graph.nodes if edges.is_new(n)}
    assert new == {"conv", "bn", "hooked"}


def test_which_calls_write_to_what_hooks_saw():
    def forward(m, x):
        return F.relu_(m.hooked(x)), F.relu(m.hooked(x)), F.relu_(m.conv(x))

    hooked = nn.Conv2d(1, 1, 1)
    hooked.register_forward_hook(lambda *_: None)
    edges = edges_of(forward, hooked=hooked)
    found = [edges.writes_what_hooks_saw(call) for call in edges.calls.values()]
    assert [call.op.name for call in edges.calls.values()] == ["conv2d", "relu"] * 3
    assert found == [False, True, False, False, False, False]


def test_a_parametrised_weight_is_not_computed_by_looking():
    class Counting(nn.Module):
        calls = 0

        def forward(self, weight):
            Counting.calls += 1
            return weight

    conv = nn.Conv2d(1, 1, 1)
    parametrize.register_parametrization(conv, "weight", Counting())
    model = Calls(lambda m, x: m.weighed(m.relu(x)), weighed=conv)
    graph = torch.fx.Graph()
    graph.output(graph.call_module("weighed", (graph.placeholder("x"),)))
    Counting.calls = 0
    assert len(find_edges(graph, model).calls) == 1
    assert Counting.calls == 0


def test_the_table_has_no_op_twice():
    names = [op.name for op in TABLE]
    assert len(names) == len(set(names))
    for spelling, table in (
        ("modules", OF_MODULE),
        ("functions", OF_FUNCTION),
        ("methods", OF_METHOD),
    ):
        assert sum(len(set(getattr(op, spelling))) for op in TABLE) == len(table)
