"""Modules in a trace: shared, listed, hooked, overridden, and torch's own as roots."""

import torch
import torch.nn.functional as F
from _traces import X, check, generated, make, targets
from torch import nn

from fxpass.capture import ArgPattern, Capture, OwnForward, capture, capture_unit


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


def test_torch_modules_as_roots():
    check(nn.Conv1d(3, 2, 3), X)
    check(nn.MaxPool1d(2), X)
    found = capture_unit(nn.BatchNorm1d(3), ArgPattern.of((X,), {}))
    assert isinstance(found, OwnForward)
    assert found.losses == []
