"""A believed trace, run as generated code on the module itself, does what the module does."""

import collections
import copy
import dataclasses
import enum
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from capture_cases import asserts_by_torch, asserts_one_thing
from torch import nn

from fxpass.capture import ArgPattern, Capture, Lossy, OwnForward, capture, capture_unit

X = torch.linspace(-1, 1, 24).view(2, 3, 4)
Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Output:
    value: torch.Tensor
    more: int = 0


class Mode(enum.Enum):
    FAST = 1


def generated(graph):
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(code.src, namespace)
    return namespace["forward"]


def bits(value):
    """A nested structure with every tensor as bytes, and its gradient function's name."""
    if isinstance(value, torch.Tensor):
        name = value.grad_fn.name() if value.grad_fn is not None else None
        return (
            value.dtype,
            value.stride(),
            value.detach().reshape(-1).view(torch.uint8).tolist(),
            name,
        )
    if isinstance(value, dict):
        return (type(value), [(k, bits(v)) for k, v in value.items()])
    if isinstance(value, (list, tuple)):
        return (type(value), [bits(v) for v in value])
    if dataclasses.is_dataclass(value):
        return (type(value), bits(vars(value)))
    return (float if isinstance(value, float) else type(value), value)


def check(module, *args, **kwargs):
    """Runs eager and traced from one state, twice; returns the capture."""
    found = capture(module, ArgPattern.of(args, kwargs))
    run, results = generated(found.graph), []
    assert found.guards.holds()
    for traced in (False, True):
        torch.manual_seed(3)
        one, given = copy.deepcopy(module), copy.deepcopy((args, kwargs))
        outputs = []
        for _ in range(2):
            if traced:
                outputs.append(bits(run(one, *found.pattern.flatten(*given))))
            else:
                outputs.append(bits(one(*given[0], **given[1])))
        results.append((outputs, bits(given), bits(dict(one.state_dict())), torch.rand(1).item()))
    assert results[0] == results[1]
    return found


def targets(found, op):
    return [n.target for n in found.graph.nodes if n.op == op]


def make(forward, **members):
    module = type("Made", (nn.Module,), {"forward": forward})()
    for name, value in members.items():
        setattr(module, name, value)
    return module


def test_augmented_assignment_is_in_place():
    def forward(self, x):
        y = x * 2
        z = y
        z += 1
        z *= x
        return y, z

    found = check(make(forward), X)
    assert [t.__name__ for t in targets(found, "call_function")] == ["mul", "iadd", "imul"]


def test_augmented_assignment_of_sizes_makes_a_new_number():
    def forward(self, x):
        rows = x.size(0)
        old = rows
        rows += 1
        a, b, c = x.shape
        total = a
        total *= b
        return old, rows, a, total, x.sum() * c

    check(make(forward), X)


def test_augmented_assignment_of_dtypes_under_autocast():
    def forward(self, x):
        a = self.fc(x)
        a += x
        return a

    module = make(forward, fc=nn.Linear(4, 4))
    run = generated(capture(module, ArgPattern.of((X,), {})).graph)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bits(run(module, X)) == bits(module(X))


@pytest.mark.parametrize("training", [True, False])
def test_buffers_of_inlined_modules_are_updated_once_a_call(training):
    def forward(self, x):
        if self.training:
            self.n.add_(1)
            self.m += x.mean()
        return F.dropout(x, 0.5, self.training) + self.n

    root = nn.Sequential(make(forward), nn.ReLU())
    root[0].register_buffer("n", torch.zeros(()))
    root[0].register_buffer("m", torch.zeros(()))
    root.train(training)
    check(root, X)
    assert root[0].n == 0


def test_indexed_assignment_and_members():
    def forward(self, x):
        y = x.clone()
        y[0] = 1
        y[:, 1:] += 2
        return y, y.mT.shape, y.data, x.dtype, x.view(x.size(0), -1), x.reshape(-1, x.shape[-1])

    check(make(forward), X)


TENSORS = {"scales": [torch.ones(1), torch.ones(1)]}


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: [x * i for i in (1, 2)],
        lambda self, x: sum(x + i for i in range(3)),
        lambda self, x: (lambda y: y * x)(x + 1),
        lambda self, x: (lambda xs: [xs[i] * 2 for i in (1, 0)])([x, x + 1]),
        lambda self, x: (lambda xs: {k: xs[k] * x for k in xs})({"a": x, "b": x + 1}),
        lambda self, x: x * len(TENSORS["scales"]),
    ],
)
def test_functions_that_close_over_values(forward):
    check(make(forward), X)


def test_isinstance_takes_the_branch_of_a_tensor():
    def forward(self, x):
        shape, n, parts = x.shape, x.size(0), x.chunk(2, 1)
        assert not isinstance(x, (list, int, torch.Size))
        if not isinstance(x, torch.Tensor) or not torch.is_tensor(x):
            return x - 1
        if isinstance(shape, tuple) and isinstance(n, int) and isinstance(parts, tuple):
            return x + 1
        return x

    check(make(forward), X)


def test_assertions_of_torch_are_checked_at_run_time():
    module = make(asserts_by_torch)
    run = generated(check(module, X).graph)
    with pytest.raises(AssertionError, match="got a value known only at run time"):
        run(module, X[:, :2])


def test_assertions_are_checked_at_run_time():
    module = make(asserts_one_thing)
    run = generated(check(module, X).graph)
    with pytest.raises(AssertionError, match=r"assertion at .*py:\d+ failed"):
        run(module, X[:, :2])


def test_modes_of_the_caller_act_at_run_time():
    module = make(lambda self, x: x.sum() + torch.zeros(x.size(0)).sum())
    with torch.device("meta"):
        graph = capture(module, ArgPattern.of((X,), {})).graph
    assert generated(graph)(module, X).device.type == "cpu"


@pytest.mark.parametrize(
    "result",
    [
        lambda x: x.nonzero(as_tuple=True),
        lambda x: torch.nonzero(x, as_tuple=True),
        lambda x: x.unique_consecutive(),
        lambda x: torch.unique_consecutive(x),
        lambda x: F.max_pool1d(x, 2, return_indices=True),
        lambda x: torch.result_type(x, 1),
    ],
)
def test_kinds_that_are_not_certain(result):
    def forward(self, x):
        return x if isinstance(result(x), torch.Tensor) else -x

    with pytest.raises(Lossy, match="isinstance"):
        capture(make(forward), ArgPattern.of((X,), {}))


def test_hasattr_and_default_getattr():
    def forward(self, x):
        rows = x.shape[0] if hasattr(x, "shape") else 0
        return x * rows + getattr(self, "missing", 3)

    check(make(forward), X)


def test_unpacking():
    def forward(self, x):
        b, c, h = x.shape
        first, second = x
        left, right = torch.chunk(x, 2, dim=2)
        out, (hidden, cell) = self.lstm(x)
        values, indices = x.max(dim=1)
        return b * c, h, first * second, left + right, out, hidden, cell, values, indices

    module = make(forward, lstm=nn.LSTM(4, 2))
    found = check(module, X)
    run = generated(found.graph)
    with pytest.raises(ValueError, match="too many values to unpack"):
        run(module, X[None])


def test_rows_are_taken_by_unbind():
    def forward(self, x):
        first, second = x
        return first, second

    check(make(forward), X.clone().requires_grad_())


def test_arguments_by_default_name_star_and_structure():
    def forward(self, x, y=None, *rest, scale=2, flags=(1, 2), **named):
        x = x * scale + len(rest) + flags[0]
        for value in rest:
            x = x + value
        if y is not None:
            x = x - (y["a"] if isinstance(y, dict) else y)
        return x, [*named.values()], {k: v * 2 for k, v in named.items()}

    module = make(forward)
    check(module, X)
    check(module, X, X + 1)
    check(module, X, {"a": X + 1, "b": [X, (X, 2)]})
    check(module, X, None, X, X * 3, scale=1.5, q=X, r=X + 2)
    check(module, x=X, flags=[3])
    check(module, X, Pair(X, 1).left)
    check(make(lambda self, p: p.left * p.right), Pair(X, 3))


@pytest.mark.parametrize(
    "result",
    [
        lambda x: (x, [x, {"a": x}], None, 3, 0.1, -0.0, math.inf, "text", x.shape),
        lambda x: collections.OrderedDict(a=x, b=(x,)),
        lambda x: Pair(x, x + 1),
        lambda x: Output(x, 3),
        lambda x: {"number": np.float64(0.1), "dtype": torch.float64, "slice": slice(0, 2)},
        lambda x: None,
        lambda x: x,
    ],
)
def test_results(result):
    check(make(lambda self, x: result(x)), X)


def test_nan_in_the_trace():
    found = capture(make(lambda self, x: (x, math.nan)), ArgPattern.of((X,), {}))
    assert math.isnan(generated(found.graph)(None, X)[1])


def test_results_that_lose_their_type():
    class Special(dict):
        pass

    for result in (
        lambda x: (x, Mode.FAST),
        lambda x: Special(a=x),
        lambda x: {x: 1},
        lambda x: {1, 2},
        lambda x: print,
    ):
        with pytest.raises(Lossy):
            capture(make(lambda self, x, r=result: r(x)), ArgPattern.of((X,), {}))


def test_shared_repeated_and_listed_modules():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.again = self.fc
            self.layers = nn.ModuleList([nn.ReLU(), nn.Sequential(self.fc, nn.Tanh())])
            self.named = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False)})
            self.tied = nn.Linear(4, 4)
            self.tied.weight = self.fc.weight
            self.weights = nn.ParameterList([nn.Parameter(torch.ones(4))])
            self.scale = torch.full((4,), 0.5)
            self.nothing = nn.Identity()

        def forward(self, x):
            for layer in self.layers:
                x = layer(self.again(x))
            x = self.named["a"](self.tied(x)) * self.weights[0] * self.scale
            return F.linear(self.nothing(x), self.fc.weight, self.tied.bias) - self.scale

    found = check(Root(), X)
    assert "fc" in found.leaves
    assert "again" not in found.leaves


def test_a_plain_tensor_attribute_is_read_live():
    module = make(lambda self, x: x * self.scale, scale=torch.ones(4))
    run = generated(capture(module, ArgPattern.of((X,), {})).graph)
    module.scale = torch.full((4,), 3.0)
    assert torch.equal(run(module, X), X * 3)


def test_attention_weights_that_are_none():
    def forward(self, x):
        y, weights = self.attention(x, x, x, need_weights=False)
        return y if weights is None else y * 2

    module = make(forward, attention=nn.MultiheadAttention(4, 1))
    assert isinstance(capture_unit(module, ArgPattern.of((X,), {})), OwnForward)
    module = make(lambda self, x: self.attention(x, x, x)[0], attention=nn.MultiheadAttention(4, 1))
    check(module, X)


def test_call_of_forward_bypasses_hooks_as_in_eager():
    module = nn.Sequential(nn.Linear(4, 4))
    module[0].register_forward_hook(lambda m, a, y: y * 2)
    check(make(lambda self, x: self.inner[0].forward(x), inner=module), X)


def test_hooks_make_boundaries_of_containers_and_marks_on_leaves():
    root = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4), nn.ReLU())
    root[0].register_forward_hook(lambda m, a, y: y * 2)
    root[1].register_full_backward_hook(lambda m, a, b: None)
    root[2].forward = lambda x: x
    root.register_forward_hook(lambda m, a, y: y)
    found = capture(root, ArgPattern.of((X,), {}))
    assert targets(found, "call_module") == ["0", "1", "2"]
    assert found.boundaries == {"0": root[0]}
    assert found.hooked == {"1"}
    assert found.overridden == {"2"}


def test_global_hooks_make_every_container_a_boundary():
    root = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4))
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, y: None)
    try:
        found = capture(root, ArgPattern.of((X,), {}))
        assert (list(found.boundaries), found.hooked) == (["0"], {"1"})
        assert found.guards.global_hooks
        assert found.guards.holds()
    finally:
        handle.remove()
    assert not found.guards.holds()


def test_given_boundaries_are_called():
    root = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.ReLU())
    found = capture(root, ArgPattern.of((X,), {}), [root[0], root[1]])
    assert list(found.boundaries) == ["0", "1"]
    assert isinstance(found, Capture)


def test_wrapped_functions_are_not_registered_again():
    def forward(self, x):
        return x * math.sqrt(x.size(1)) + math.floor(2.5)

    found = check(make(forward), X)
    assert "wrap(" not in found.graph.python_code("self").src


def test_torch_modules_as_roots():
    check(nn.Conv1d(3, 2, 3), X)
    check(nn.MaxPool1d(2), X)
    found = capture_unit(nn.BatchNorm1d(3), ArgPattern.of((X,), {}))
    assert isinstance(found, OwnForward)
    assert found.losses == []
