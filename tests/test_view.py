"""`own_forward_view`: a module's own code runs, with other things called for its children."""

import copy
import gc
import weakref

import pytest
import torch
from _threads import at_once
from torch import nn

from fxpass.runtime.view import original, own_forward_view, run_own_forward

X = torch.linspace(-1, 1, 8).view(2, 4)


class Log:
    """Wraps children: a call is noted, then made on the module itself."""

    def __init__(self):
        self.calls, self.wrapped = [], {}

    def __call__(self, child):
        assert type(child).__name__ != "Log"
        assert original(child) is child

        def call(*args, **kwargs):
            self.calls.append(child)
            return child(*args, **kwargs)

        return self.wrapped.setdefault(id(child), call)


class Leaf(nn.Linear):
    def half(self, x):
        return self(x) / 2


class Root(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.leaf = Leaf(4, 4)
        self.stack = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.ModuleList([nn.Tanh()])])
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Sigmoid()})
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(4))])
        self.register_buffer("seen", torch.zeros(()))
        self.nothing = None
        self.none_child = nn.ReLU()
        self.none_child = None
        self.counter = 0

    def forward(self, x, *, twice=False):
        self.counter += 1
        self.seen += x.sum()
        self.last = x
        assert isinstance(self.leaf, Leaf)
        assert self.none_child is None
        assert self.__class__ is Root
        assert isinstance(self, Root)
        assert len(self.stack) == 3
        assert [n for n, _ in self.named_children()][:2] == ["fc", "leaf"]
        x = self.leaf.half(self.fc(x)) + self.fc.weight.sum()
        x = self.stack(x)
        for layer in self.stack[:2]:
            x = layer(x)
        x = self.stack[-1](x)
        for block in self.blocks:
            x = block(x) if not isinstance(block, nn.ModuleList) else block[0](x)
        for name, head in self.heads.items():
            x = head(x) if name in self.heads else x
        x = self._modules["heads"]["a"](x) * self.scales[0]
        return getattr(self, "fc")(x) * (2 if twice else 1)  # noqa: B009


def expected_calls(m):
    leafs = [m.fc, m.leaf, m.stack, *m.stack, m.blocks[0], m.blocks[1][0]]
    return [*leafs, m.heads["a"], m.heads["b"], m.heads["a"], m.fc]


def test_runs_the_modules_own_code_with_wrapped_children():
    torch.manual_seed(0)
    module = Root()
    eager, log = copy.deepcopy(module), Log()
    view = own_forward_view(module, log)
    for twice in (False, True):
        ours = run_own_forward(view, (X,), {"twice": twice})
        assert torch.equal(ours, eager(X, twice=twice))
    assert log.calls == expected_calls(module) * 2
    assert module.counter == 2
    assert module.last is X
    assert torch.equal(module.seen, eager.seen)
    assert "seen" in module._buffers
    assert sorted(module.__dict__) == sorted(eager.__dict__)
    assert type(module) is Root


def test_the_module_is_not_modified():
    module = Root()
    before = [(name, type(m), sorted(m.__dict__)) for name, m in module.named_modules()]
    children = [id(m) for m in module.modules()]
    view = own_forward_view(module, Log())
    assert [type(m).__name__ for m in view.modules()] == [t.__name__ for _, t, _ in before]
    assert [(n, type(m), sorted(m.__dict__)) for n, m in module.named_modules()] == before
    assert [id(m) for m in module.modules()] == children
    assert [n for n, _ in view.named_parameters()] == [n for n, _ in module.named_parameters()]
    assert list(view.state_dict()) == list(module.state_dict())


def test_later_changes_are_seen():
    module, log = Root(), Log()
    view = own_forward_view(module, log)
    view(X)
    log.calls.clear()
    assert view.fc is view.fc
    module.fc = nn.Linear(4, 4)
    module.blocks.append(nn.ReLU())
    assert original(view.fc) is module.fc
    assert len(view.blocks) == 3
    run_own_forward(view, (X,), {})
    assert module.blocks[2] in log.calls
    assert log.calls[0] is module.fc


def test_writes_reach_the_module():
    module, log = Root(), Log()
    view = own_forward_view(module, log)
    view.current = view.blocks[0]
    view.blocks.append(view.fc)
    view.heads["c"] = nn.ReLU()
    del view.heads["b"]
    del view.stack[1]
    view.added = nn.Tanh()
    del view.leaf
    assert module.current is module.blocks[0]
    assert module.blocks[2] is module.fc
    assert list(module.heads) == ["a", "c"]
    assert [type(m) for m in module.stack] == [nn.Linear, nn.Linear]
    assert type(module.added) is nn.Tanh
    assert "leaf" not in module._modules
    assert all(original(m) is m for m in module.modules())


def test_calling_a_view_calls_what_stands_for_its_module():
    class Recursive(nn.Module):
        def forward(self, x, depth=0):
            return x if depth == 2 else self(x + 1, depth + 1)

    module, log = Recursive(), Log()
    assert run_own_forward(own_forward_view(module, log), (1,), {}) == 3
    assert log.calls == [module]


def test_forward_of_the_instance():
    module, log = nn.Sequential(nn.ReLU()), Log()
    module.forward = (lambda self, x: self[0](x) + 1).__get__(module)
    assert torch.equal(run_own_forward(own_forward_view(module, log), (X,), {}), X.relu() + 1)
    assert log.calls == [module[0]]
    module.forward = lambda x: x - 1
    assert torch.equal(run_own_forward(own_forward_view(module, log), (X,), {}), X - 1)


def test_properties_super_and_own_getattr():
    class Base(nn.Module):
        def forward(self, x):
            return self.inner(x)

    class Derived(Base):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.ReLU())

        @property
        def inner(self):
            return self.body[0]

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.body, name)

        def forward(self, x):
            return super().forward(x)

    module, log = Derived(), Log()
    run_own_forward(own_forward_view(module, log), (X,), {})
    assert log.calls == [module.body[0]]
    with pytest.raises(AttributeError, match="missing"):
        print(own_forward_view(module, log).missing)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_what_cannot_be_viewed_is_itself():
    class Sealed(nn.Module):
        def __init_subclass__(cls):
            raise TypeError("sealed")

    sealed, script = Sealed(), torch.jit.script(nn.ReLU())
    assert own_forward_view(sealed, Log()) is sealed
    assert own_forward_view(script, Log()) is script


def test_nothing_is_kept_alive():
    def once():
        class Local(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)

            def forward(self, x):
                return self.fc(x)

        module = Local()
        view = own_forward_view(module, lambda child: child)
        run_own_forward(view, (X,), {})
        return weakref.ref(module), weakref.ref(module.fc), weakref.ref(Local)

    gc.collect()
    gc.disable()
    try:
        module, child, cls = once()
        assert module() is None
        assert child() is None
    finally:
        gc.enable()
    gc.collect()  # The view class, and then the class, which it kept in the table of view classes.
    gc.collect()
    assert cls() is None


def test_view_classes_are_made_once():
    a, b = nn.Linear(1, 1), nn.Linear(2, 2)
    view_a, view_b = own_forward_view(a, Log()), own_forward_view(b, Log())
    assert type(view_a) is type(view_b)
    assert view_a.__class__ is nn.Linear


def test_threads():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(5)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    module, results = Plain(), []
    view = own_forward_view(module, lambda m: m)

    at_once(4, lambda _: results.extend(run_own_forward(view, (X,), {}) for _ in range(50)))
    assert len(results) == 200
    assert all(torch.equal(r, module(X)) for r in results)
