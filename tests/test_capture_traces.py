"""A believed trace, run as generated code on the module itself, does what the module does."""

import math

import pytest
import torch
import torch.nn.functional as F
from _traces import X, bits, check, generated, make, targets
from capture_cases import asserts_by_torch, asserts_one_thing
from torch import nn

from fxpass.capture import ArgPattern, Lossy, capture


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


def test_wrapped_functions_are_not_registered_again():
    def forward(self, x):
        return x * math.sqrt(x.size(1)) + math.floor(2.5)

    found = check(make(forward), X)
    assert "wrap(" not in found.graph.python_code("self").src
