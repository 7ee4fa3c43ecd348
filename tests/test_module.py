"""The compiled module is the model: its state, its modes, its flags, its copies."""

import copy
import gc
import io
import pickle
import weakref
from types import MethodType

import pytest
import torch
from _threads import at_once
from _twins import Net, Twins, X, assert_same, bits, is_compiled, operators, saved_bytes
from torch import nn

import fxpass
import fxpass.runtime.unit as unit_module
from fxpass.runtime.module import CompiledModule


@pytest.fixture
def traces(monkeypatch):
    """A list that grows by one entry with each trace."""
    made = []
    capture_unit = unit_module.capture_unit

    def counting(*args):
        made.append(args)
        return capture_unit(*args)

    monkeypatch.setattr(unit_module, "capture_unit", counting)
    return made


# ---- what is shared ----------------------------------------------------------------------------


def test_parameters_buffers_and_submodules_are_the_same_objects():
    model = Net()
    compiled = fxpass.compile(model)
    assert compiled is not model
    assert compiled.original is model
    assert isinstance(compiled, Net)
    assert isinstance(compiled, nn.Module)
    for read in ("named_parameters", "named_buffers", "named_children"):
        ours, its = dict(getattr(compiled, read)()), dict(getattr(model, read)())
        assert list(ours) == list(its)
        assert all(ours[name] is its[name] for name in its)
    assert compiled.conv1 is model.conv1
    assert list(compiled.state_dict()) == list(model.state_dict())


def test_attributes_and_methods_are_the_models():
    class Talking(Net):
        greeting = "hello"

        def greet(self, name):
            return f"{self.greeting} {name}"

        @property
        def width(self):
            return self.conv1.out_channels

    model = Talking()
    compiled = fxpass.compile(model)
    assert compiled.greet("you") == "hello you"
    assert compiled.width == 8
    compiled.greeting = "bye"
    assert model.greet("you") == "bye you"
    compiled.extra = nn.Linear(2, 2)
    assert model.extra is compiled.extra
    assert "extra.weight" in model.state_dict()
    del compiled.extra
    assert not hasattr(model, "extra")
    with pytest.raises(AttributeError, match="nothing"):
        compiled.nothing  # noqa: B018


def test_names_that_a_model_is_likely_to_use_itself():
    class Busy(Net):
        def __init__(self):
            super().__init__()
            self._original, self._unit, self._strict = 1, 2, 3

        def _forward(self, x):
            return super().forward(x)

        def forward(self, x):
            return self._forward(x) * self._unit

    twins = Twins(Busy)
    assert (twins.compiled._original, twins.compiled._unit, twins.compiled._strict) == (1, 2, 3)
    twins.step()
    twins.each(lambda m: setattr(m, "_unit", 5))
    twins.step()


def test_load_state_dict_either_way():
    twins = Twins()
    for _ in range(2):
        twins.step()
    fresh = Net()
    fresh.load_state_dict(twins.compiled.state_dict())
    assert_same(bits(dict(fresh.state_dict())), bits(dict(twins.compiled.state_dict())))
    torch.manual_seed(3)
    other = Net().state_dict()
    twins.each(lambda m: m.load_state_dict(other))
    for _ in range(2):
        twins.step()


def test_a_state_dict_survives_a_file():
    twins = Twins()
    twins.step()
    file = io.BytesIO()
    torch.save(twins.compiled.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    twins.step()
    twins.each(lambda m: m.load_state_dict(state))
    twins.step()


# ---- modes, flags, hyperparameters -------------------------------------------------------------


def test_train_and_eval_have_one_program_each(traces):
    twins = Twins()
    twins.step()
    assert len(traces) == 1
    twins.each(lambda m: m.eval())
    assert not twins.compiled.original.training
    twins.step()
    assert len(traces) == 2
    for _ in range(3):
        twins.each(lambda m: m.train())
        twins.step()
        twins.each(lambda m: m.eval())
        twins.step()
    assert len(traces) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.bn.eval(),
        lambda m: setattr(m.bn, "momentum", 0.7),
        lambda m: setattr(m.bn, "eps", 0.1),
        lambda m: setattr(m.drop, "p", 0.1),
        lambda m: m.drop.eval(),
        lambda m: setattr(m.conv1, "padding", (0, 0)),
        lambda m: setattr(m.conv1, "stride", (2, 2)),
        lambda m: setattr(m.conv1, "dilation", (2, 2)),
        lambda m: setattr(m.pool, "kernel_size", 3),
        lambda m: setattr(m.relu, "inplace", True),
    ],
)
def test_a_flag_or_hyperparameter_changed_later(change):
    twins = Twins(lambda: SizeFree())
    twins.step()
    twins.each(change)
    for _ in range(2):
        twins.step()


class SizeFree(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.bn(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        return self.head(self.drop(x.mean((2, 3))))


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda m: setattr(m.drop, "p", 0.1), 0),
        (lambda m: setattr(m.bn, "momentum", 0.7), 0),
        (lambda m: m.conv1.weight.requires_grad_(False), 0),
        (lambda m: m.load_state_dict(m.state_dict()), 0),
        (lambda m: setattr(m.conv1, "weight", nn.Parameter(m.conv1.weight * 2)), 0),
        (lambda m: setattr(m.conv1, "stride", (2, 2)), 1),
        (lambda m: setattr(m, "relu", nn.Tanh()), 1),
        (lambda m: setattr(m.conv1, "bias", None), 1),
        (lambda m: m.relu.register_forward_hook(lambda *_: None), 1),
    ],
)
def test_only_what_the_trace_depends_on_is_traced_again(change, again, traces):
    twins = Twins(SizeFree)
    twins.step()
    twins.each(change)
    twins.step()
    twins.step()
    assert len(traces) == 1 + again


def test_freezing_later_saves_memory_and_keeps_the_bits(traces):
    class Deep(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 16, 1), *[nn.Conv2d(16, 16, 1) for _ in range(4)])

        def freeze(self, frozen):
            for layer in list(self)[:4]:
                layer.requires_grad_(not frozen)

    twins = Twins(Deep)
    twins.step()
    before = saved_bytes(twins.compiled, X)
    twins.each(lambda m: m.freeze(True))
    twins.step()
    with_input = X.clone().requires_grad_()
    assert saved_bytes(twins.compiled, X) < 0.5 * before
    assert saved_bytes(twins.compiled, with_input) < 0.5 * before  # only the last conv saves
    twins.each(lambda m: m.freeze(False))
    twins.step()
    assert saved_bytes(twins.compiled, X) == before
    assert len(traces) == 1


def test_a_replaced_submodule_is_traced_and_the_old_one_forgotten():
    twins = Twins(SizeFree)
    twins.step()
    old = weakref.ref(twins.compiled.conv2)
    torch.manual_seed(2)
    conv = nn.Conv2d(8, 8, 1)
    twins.each(lambda m: setattr(m, "conv2", copy.deepcopy(conv)))
    for _ in range(2):
        twins.step()
    gc.collect()
    assert old() is None
    twins.each(lambda m: setattr(m, "relu", nn.Sequential(nn.ReLU(), nn.Hardtanh())))
    twins.step()
    twins.each(lambda m: m.relu.append(nn.Identity()))
    twins.step()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.double(),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.to(memory_format=torch.channels_last),
        lambda m: m.half().float(),
    ],
)
def test_dtype_and_memory_format(change):
    twins = Twins()
    twins.step()
    twins.each(change)
    x = X.to(twins.eager.conv1.weight.dtype)
    for _ in range(2):
        twins.step(x)
        twins.step(x.to(memory_format=torch.channels_last))


def test_a_forward_set_on_the_instance():
    twins = Twins(Net)
    twins.step()
    eager, original = twins.eager, twins.compiled.original
    for m in (eager, original):
        m.forward = lambda x, m=m: Net.forward(m, x) * 2
    with pytest.warns(UserWarning, match="forward that was replaced"):
        twins.step()
    for m in (eager, original):
        del m.forward
    twins.step()


def test_a_forward_set_on_the_compiled_module_may_call_the_one_it_replaces():
    def replace(m):
        before = m.forward
        m.forward = lambda x: before(x) * 2

    twins = Twins(Net)
    twins.each(replace)
    twins.each(replace)
    twins.step()
    assert "forward" not in vars(twins.compiled.original)
    assert [is_compiled(m(X)) for m in (twins.eager, twins.compiled)] == [False, True]
    twins.each(lambda m: delattr(m, "forward"))
    twins.step()
    with pytest.raises(AttributeError):
        del twins.compiled.forward


def doubled(module, x):
    forward = module._fxpass_forward if isinstance(module, CompiledModule) else module.own
    return forward(x) * 2


class WithOwn(Net):
    def own(self, x):
        return super().forward(x)


def test_copies_have_a_forward_that_is_set_on_the_compiled_module():
    twins = Twins(WithOwn)
    twins.each(lambda m: setattr(m, "forward", MethodType(doubled, m)))
    twins.step()
    twins.eager, twins.compiled = copy.deepcopy(twins.eager), copy.deepcopy(twins.compiled)
    twins.step()
    assert twins.compiled.forward.__self__ is twins.compiled
    twins.compiled.forward = torch.sin
    for clone in (copy.copy(twins.compiled), pickle.loads(pickle.dumps(twins.compiled))):
        assert clone.forward is torch.sin


# ---- copies ------------------------------------------------------------------------------------


def by_torch_save(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), by_torch_save]
)
def test_copies_are_compiled_and_independent(copied):
    twins = Twins()
    twins.step()
    clone = Twins.__new__(Twins)
    clone.eager, clone.compiled = copied(twins.eager), copied(twins.compiled)
    assert isinstance(clone.compiled, type(twins.compiled))
    assert clone.compiled.conv1 is not twins.compiled.conv1
    assert clone.compiled.conv1 is clone.compiled.original.conv1
    for _ in range(2):
        clone.step()
        twins.step()
    assert operators(clone.compiled) == operators(twins.compiled) != []


def test_a_shallow_copy_shares_parameters_but_not_attributes():
    compiled = fxpass.compile(Net())
    shallow = copy.copy(compiled)
    assert shallow.conv1 is compiled.conv1
    shallow.note = 1
    assert not hasattr(compiled, "note")
    assert shallow.original is not compiled.original
    assert shallow(X).requires_grad


def test_a_strict_copy_is_strict():
    compiled = fxpass.compile(Net(), strict=True)
    clone = copy.deepcopy(compiled)
    clone.drop.forward = lambda x: x if x.sum() > 0 else -x
    clone.relu = Branching()
    with pytest.raises(fxpass.TraceError, match="Branching"):
        clone(X)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_slice_is_an_ordinary_module():
    compiled = fxpass.compile(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    part = compiled[:2]
    assert type(part) is nn.Sequential
    assert part[0] is compiled[0]
    assert torch.equal(part(X), compiled.original[:2](X))
    part.append(nn.Flatten())
    assert len(compiled) == 3


# ---- a compiled module inside another model ------------------------------------------------------


def test_a_compiled_part_of_a_larger_model():
    twins = Twins(lambda: nn.Sequential(Net(), nn.ReLU(), nn.Linear(5, 2)))
    compiled = twins.compiled.original
    compiled[0] = fxpass.compile(compiled[0])
    twins.compiled = compiled  # the outer model is eager, its first part compiled
    twins.step()
    twins.compiled = fxpass.compile(compiled)  # both
    for _ in range(2):
        twins.step()
    assert operators(twins.compiled) == ["relu", "linear"]
    assert fxpass.compile(twins.compiled) is twins.compiled


# ---- threads -----------------------------------------------------------------------------------


def test_calls_from_several_threads(traces):
    twins = Twins()
    twins.each(lambda m: m.eval())
    expected = bits(twins.eager(X))
    found = []

    def work(_):
        for _ in range(3):
            found.append(bits(twins.compiled(X)))
            twins.compiled(X).sum().backward()

    at_once(4, work)
    assert len(found) == 12
    for one in found:
        assert_same(expected, one)
    assert len(traces) == 2  # one by compile, in training mode; one by whoever came first


def test_a_lazy_module_becomes_what_eager_makes_of_it():
    model = nn.LazyConv2d(4, 3)
    compiled = fxpass.compile(model)
    assert isinstance(compiled, nn.LazyConv2d)
    compiled(torch.randn(2, 3, 8, 8))
    assert type(model) is nn.Conv2d
    assert isinstance(compiled, nn.Conv2d)
    assert isinstance(compiled, CompiledModule)
    assert compiled.original is model
    assert compiled.weight is model.weight
    assert isinstance(copy.deepcopy(compiled), nn.Conv2d)
