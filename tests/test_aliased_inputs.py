"""Inputs that lie in one storage: an op reads what is there where it stands in the model."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxpass
from fxpass.plan import Recipe


class WritesBetween(nn.Module):
    """Writes to an input between a ReLU and the max pool that would be one op with it."""

    def __init__(self, kind):
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.kind = kind
        self.register_buffer("steps", torch.linspace(-2, 2, 16).view(1, 1, 4, 4))

    def forward(self, x, other):
        y = F.relu(self.steps if self.kind == "buffer" else x)
        other.mul_(-1)
        return self.pool(y)


@pytest.mark.parametrize("kind", ["input", "buffer", "view of the input"])
def test_a_write_between_a_relu_and_its_pool(kind):
    model = WritesBetween(kind)
    compiled = fxpass.compile(model)
    results = []
    for run in (model, compiled):
        weight = torch.ones((), requires_grad=True)
        x = torch.linspace(-1, 1, 16).view(1, 1, 4, 4) * weight
        model.steps.copy_(torch.linspace(-2, 2, 16).view(1, 1, 4, 4))
        shared = {"input": x.detach(), "buffer": model.steps, "view of the input": x.detach()[0]}
        output = run(x, shared[kind])
        if output.requires_grad:
            output.sum().backward()
        results.append((output.detach(), weight.grad))
    (a, a_grad), (b, b_grad) = results
    assert torch.equal(a, b)
    assert (a_grad is None and b_grad is None) or torch.equal(a_grad, b_grad)


def test_without_a_write_they_are_one_op():
    class Net(nn.Module):
        def forward(self, x):
            return F.max_pool2d(F.relu(x), 2)

    assert [choice.recipe for choice in fxpass.compile(Net()).plan] == [Recipe.CODE]
