"""`Guards`: whatever a trace took for granted is noticed when it changes, and nothing else is."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from _timing import timed
from torch import nn

from fxpass.capture import ArgPattern, capture
from fxpass.capture.guards import BAKED
from fxpass.edges.table import OF_MODULE

X = torch.linspace(-1, 1, 96).view(2, 3, 4, 4)
SLOPE = 0.5


class Block(nn.Module):
    slack = 1

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.pool = nn.MaxPool2d(2, return_indices=False)
        self.read = nn.Dropout(0.1)
        self.uncalled = nn.ModuleList([nn.Dropout(0.1)])
        self.tied = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.tied.weight
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("offset", None)
        self.table = torch.ones(1)
        self.sizes = [1, (2, 3)]
        self.options = {"deep": [1]}
        self.k = 2
        self.fn = F.relu

    def forward(self, x):
        x = self.pool(self.drop(self.act(self.bn(self.conv(x)))))
        x = F.dropout(x, self.read.p, self.training) + self.bias * SLOPE * self.table
        for drop in self.uncalled:
            x = F.dropout(x, drop.p)
        if self.offset is not None:
            x = x + self.offset
        return self.fn(x) * self.k + self.sizes[0] + self.slack


class Root(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
        self.hooked = nn.Sequential(nn.ReLU())
        self.handle = self.hooked.register_forward_hook(lambda m, a, y: None)

    def forward(self, x):
        return self.hooked(self.block(x))


def made():
    root = Root()
    return root, capture(root, ArgPattern.of((X,), {})).guards


def set_slope(value):
    def change(root):
        globals()["SLOPE"] = value

    return change


def replaced_same_kind(root):
    root.block.conv = nn.Conv2d(3, 3, 3, padding=1)


def untied(root):
    root.block.other.weight = nn.Parameter(torch.zeros(4, 4))


CHANGES = {
    "training": lambda r: r.block.train(False) and None,
    "own training only": lambda r: setattr(r.block, "training", False),
    "training of a batch norm": lambda r: r.block.bn.eval() and None,
    "plain attribute": lambda r: setattr(r.block, "k", 3),
    "type of a plain attribute": lambda r: setattr(r.block, "k", 2.0),
    "list attribute": lambda r: r.block.sizes.append(3),
    "nested": lambda r: r.block.options["deep"].append(3),
    "function attribute": lambda r: setattr(r.block, "fn", F.gelu),
    "deleted attribute": lambda r: delattr(r.block, "k"),
    "new attribute": lambda r: setattr(r.block, "debug", True),
    "class attribute": lambda r: setattr(Block, "slack", 2),
    "global": set_slope(0.25),
    "stride": lambda r: setattr(r.block.conv, "stride", (2, 2)),
    "padding_mode": lambda r: setattr(r.block.conv, "padding_mode", "circular"),
    "inplace": lambda r: setattr(r.block.act, "inplace", True),
    "pool": lambda r: setattr(r.block.pool, "ceil_mode", True),
    "p that forward reads": lambda r: setattr(r.block.read, "p", 0.2),
    "p that forward reads in a list": lambda r: setattr(r.block.uncalled[0], "p", 0.2),
    "submodule": replaced_same_kind,
    "submodule by another class": lambda r: setattr(r.block, "act", nn.GELU()),
    "submodule of a list": lambda r: r.block.uncalled.append(nn.Dropout()),
    "class": lambda r: setattr(r.block.act, "__class__", nn.Tanh),
    "hook on a container": lambda r: r.block.register_forward_pre_hook(lambda m, a: None),
    "hook on a leaf": lambda r: r.block.conv.register_full_backward_hook(lambda m, a, b: None),
    "hook removed": lambda r: r.handle.remove(),
    "forward of a leaf": lambda r: setattr(r.block.act, "forward", lambda x: x),
    "forward of a container": lambda r: setattr(r.block, "forward", lambda x: x),
    "parameter": lambda r: setattr(r.block, "bias", None),
    "bias of a leaf": lambda r: setattr(r.block.conv, "bias", None),
    "buffer": lambda r: setattr(r.block, "offset", torch.ones(1)),
    "tensor attribute": lambda r: setattr(r.block, "table", None),
    "tie": untied,
}

LIVE = {
    "p": lambda r: setattr(r.block.drop, "p", 0.1),
    "momentum": lambda r: setattr(r.block.bn, "momentum", 0.3),
    "training of a leaf": lambda r: r.block.drop.eval() and None,
    "weights": lambda r: r.load_state_dict(r.state_dict()),
    "weight": lambda r: setattr(r.block.conv, "weight", nn.Parameter(torch.zeros(3, 3, 3, 3))),
    "requires_grad": lambda r: r.requires_grad_(False) and None,
    "table": lambda r: setattr(r.block, "table", torch.zeros(1)),
    "hook on the root": lambda r: r.register_forward_hook(lambda m, a, y: None) and None,
    "second hook": lambda r: r.hooked.register_forward_hook(lambda m, a, y: None) and None,
    "inside a boundary": lambda r: setattr(r.hooked[0], "inplace", True),
}


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    Block.slack = 1
    set_slope(0.5)(None)


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_noticed(name):
    root, guards = made()
    assert guards.holds()
    CHANGES[name](root)
    assert not guards.holds()


@pytest.mark.parametrize("name", LIVE)
def test_change_of_what_is_read_live_is_not(name):
    root, guards = made()
    LIVE[name](root)
    assert guards.holds()


def test_a_new_trace_holds_again():
    root, guards = made()
    root.eval()
    assert not guards.holds()
    assert capture(root, ArgPattern.of((X,), {})).guards.holds()
    root.train()
    assert guards.holds()


def test_module_called_from_below_a_boundary():
    class Outside(nn.Module):
        def __init__(self):
            super().__init__()
            inner = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv1d(1, 1, 1)))
            inner.register_forward_hook(lambda m, a, y: None)
            self.parts = nn.ModuleList([inner])

        def forward(self, x):
            for inner in self.parts:
                x = inner[0](x) + inner(x)
            return x

    root = Outside()
    guards = capture(root, ArgPattern.of((X[0, :1],), {})).guards
    root.parts[0][0][1].padding = (1,)
    assert not guards.holds()
    root.parts[0][0][1].padding = (0,)
    assert guards.holds()
    root.parts[0][0] = nn.Sequential(nn.ReLU())
    assert not guards.holds()


def test_checking_takes_about_a_microsecond_a_module():
    root = nn.Sequential(
        *[nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(40)]
    )
    guards = capture(root, ArgPattern.of((X,), {})).guards
    modules = len(list(root.modules()))
    best = min(timed(guards.holds, 50) for _ in range(20))
    assert best / modules < 2e-6


READ_WHEN_THE_OP_RUNS = {"momentum"}


@pytest.mark.parametrize("cls", sorted(OF_MODULE, key=lambda cls: cls.__name__))
def test_every_argument_that_the_table_reads_from_a_module_is_guarded(cls):
    tensors = {"input", "weight", "bias", "running_mean", "running_var"}
    named = set(OF_MODULE[cls].parameters) - tensors - READ_WHEN_THE_OP_RUNS
    baked = {name for base in cls.__mro__ for name in BAKED.get(base, ())}
    unguarded = named - baked
    known = set(inspect.signature(cls.__init__).parameters) | {"training"}
    assert not unguarded & known
