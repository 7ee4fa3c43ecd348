"""Hooks of all kinds on a compiled module: called as eager calls them, their op still rewritten."""

import numpy
import pytest
import torch
import torch.nn.functional as F
from _twins import Net, Twins, X, assert_same, bits, operators, saved_bytes
from torch import nn
from torch.nn.modules import module as nn_module
from torch.nn.utils import parametrizations, parametrize, prune

import fxpass

REGISTER = {
    "forward": lambda m, hook: m.register_forward_hook(hook),
    "forward, kwargs": lambda m, hook: m.register_forward_hook(hook, with_kwargs=True),
    "forward pre": lambda m, hook: m.register_forward_pre_hook(hook),
    "forward pre, kwargs": lambda m, hook: m.register_forward_pre_hook(hook, with_kwargs=True),
    "backward": lambda m, hook: m.register_full_backward_hook(hook),
    "backward pre": lambda m, hook: m.register_full_backward_pre_hook(hook),
}
OPERATORS = ["conv2d", "batch_norm", "conv2d", "relu_max_pool2d", "bitmap", "linear"]
# A hook sees the value between the batch norm and the ReLU, or the ReLU and the pool.
BN_HOOKED = ["conv2d", "batch_norm", "relu", *OPERATORS[2:]]
RELU_HOOKED = [*BN_HOOKED[:4], "relu", "max_pool2d", *OPERATORS[4:]]
POOL_HOOKED = [*OPERATORS[:3], "relu", "max_pool2d", *OPERATORS[4:]]
HOOKED = {"bn": BN_HOOKED, "relu": RELU_HOOKED, "pool": POOL_HOOKED}


class Log:
    """A hook that writes down what it is given; one per twin."""

    def __init__(self):
        self.entries = []

    def __call__(self, module, *given):
        name = type(module).__name__.removeprefix("Compiled")
        self.entries.append((name, bits([g for g in given if not isinstance(g, dict)])))


class Logged(Twins):
    """Twins with a log each."""

    def __init__(self, make=Net):
        super().__init__(make)
        self.logs = {id(self.eager): Log(), id(self.compiled): Log()}

    def hook(self, register, path):
        """Registers on a submodule of both; returns the handles."""
        return [
            register(m.get_submodule(path), self.logs[id(m)]) for m in (self.eager, self.compiled)
        ]

    def check_logs(self, at_least):
        eager, compiled = (log.entries for log in self.logs.values())
        assert len(eager) >= at_least
        assert [name for name, _ in eager] == [name for name, _ in compiled]
        for (_, expected), (_, found) in zip(eager, compiled, strict=True):
            assert_same(expected, found)


@pytest.mark.parametrize("kind", REGISTER)
@pytest.mark.parametrize("path", ["", "conv1", "bn", "relu", "conv2", "pool", "drop", "head"])
def test_a_hook_on_a_module_is_called_as_in_eager_and_its_op_stays_rewritten(kind, path):
    twins = Logged()
    twins.step()
    handles = twins.hook(REGISTER[kind], path)
    for _ in range(2):
        twins.step()
    twins.check_logs(at_least=2)
    assert operators(twins.compiled) == HOOKED.get(path, OPERATORS)
    for handle in handles:
        handle.remove()
    twins.step()
    twins.check_logs(at_least=2)
    assert len(twins.logs[id(twins.eager)].entries) == len(twins.logs[id(twins.compiled)].entries)


def test_memory_stays_low_with_a_hook_on_every_relu_and_conv():
    class Deep(nn.Sequential):
        def __init__(self):
            layers = [nn.Conv2d(3, 8, 3)]
            for _ in range(5):
                layers += [nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
            super().__init__(*layers)

    twins = Logged(Deep)
    twins.step()
    eager, before = saved_bytes(twins.eager, X), saved_bytes(twins.compiled, X)
    for path in range(11):
        for register in REGISTER.values():
            register(twins.compiled[path], lambda *_: None)
    # The hooks on gradients put a node, but no values, before and after each module.
    assert saved_bytes(twins.compiled, X) == before < 0.7 * eager
    assert operators(twins.compiled).count("relu") == 5


@pytest.mark.parametrize("path", ["relu", "conv1", "conv2", "pool", "head", "bn"])
@pytest.mark.parametrize(
    "change",
    [
        lambda m, args, out: out * 2,
        lambda m, args, out: out.clone(),
        lambda m, args, out: F.relu(out - 0.5),
        lambda m, args, out: out.view_as(out),
        lambda m, args, out: None,
    ],
)
def test_a_hook_that_replaces_the_result(path, change):
    twins = Twins()
    twins.step()
    twins.each(lambda m: m.get_submodule(path).register_forward_hook(change))
    for _ in range(2):
        twins.step()
    assert "conv2d" in operators(twins.compiled)


@pytest.mark.parametrize("path", ["relu", "conv1", "conv2", "pool", "head"])
def test_a_pre_hook_that_replaces_the_input(path):
    twins = Twins()
    for change in (lambda m, args: (args[0] * 2,), lambda m, args: args[0].clone()):
        twins.each(lambda m, c=change: m.get_submodule(path).register_forward_pre_hook(c))
        twins.step()


@pytest.mark.parametrize("path", ["conv1", "bn", "head"])
def test_a_hook_that_changes_the_result_in_place(path):
    twins = Twins()
    twins.each(
        lambda m: m.get_submodule(path).register_forward_hook(lambda m, args, out: out.mul_(2))
    )
    for _ in range(2):
        twins.step()


def test_a_hook_that_changes_a_relus_result_in_place_raises_as_in_eager():
    twins = Twins()
    twins.each(lambda m: m.relu.register_forward_hook(lambda m, args, out: out.mul_(2)))
    for model in (twins.eager, twins.compiled):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            model(X).sum().backward()


def test_a_hook_that_keeps_the_result():
    twins = Twins()
    kept = {True: [], False: []}
    for model in (twins.eager, twins.compiled):
        store = kept[model is twins.eager]
        model.relu.register_forward_hook(lambda m, args, out, store=store: store.append(out))
    twins.step()
    assert len(kept[True]) == 2
    assert_same(bits(kept[True]), bits(kept[False]))
    twins.step(loss_fn=lambda out: out.sum())
    extra = [out.detach().sum() for out in kept[True]]
    assert len(extra) == 4


class InPlace(nn.Module):
    """A convolution, an in-place ReLU and a max pool, twice: one op each, unless a hook objects."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(self.relu(self.conv1(x)))
        return self.pool(self.relu(self.conv2(x)))


# What a hook can do with the result of a convolution that a ReLU is about to write over: what it
# returns takes the result's place, what it puts into `kept` joins the loss.
HOLDS = {
    "nothing": lambda kept, out: None,
    "the result": lambda kept, out: kept.append(out),
    "a detached alias": lambda kept, out: kept.append(out.detach()),
    "a view": lambda kept, out: kept.append(out[0]),
    "an array": lambda kept, out: kept.append(out.detach().numpy()),
    "its storage": lambda kept, out: kept.append(out.untyped_storage()),
    "what does not save it": lambda kept, out: kept.append(out * 2),
    "what saves it": lambda kept, out: kept.append(out**2),
    "a gradient hook": lambda kept, out: kept.append(out.register_hook(lambda g: g * 2)),
    "in its place, what is saved": lambda kept, out: out.sigmoid(),
    "in its place, a view": lambda kept, out: out.view_as(out),
    "in its place, a leaf": lambda kept, out: out.detach().requires_grad_(),
    "in its place, a subclass": lambda kept, out: nn.Parameter(out.detach(), False),
    "in its place, a tuple": lambda kept, out: (out,),
}


def run_holding(model, hold):
    """Everything there is to see after a step with a hook that holds what it is given."""
    kept = []
    hook = model.conv2.register_forward_hook(lambda m, args, out: hold(kept, out))
    model.zero_grad()
    try:
        output = model(X)
        seen = [torch.as_tensor(k) for k in kept if isinstance(k, (torch.Tensor, numpy.ndarray))]
        loss = sum((k.sum() for k in seen if k.requires_grad), output.sum())
        loss.backward()
    except (RuntimeError, TypeError) as error:
        return error, None
    finally:
        hook.remove()
    return None, bits([output, seen, {n: p.grad for n, p in model.named_parameters()}])


@pytest.mark.parametrize("hold", HOLDS)
def test_a_hook_that_holds_what_a_relu_writes_over(hold):
    twins = Twins(InPlace)
    twins.step()
    error, expected = run_holding(twins.eager, HOLDS[hold])
    found_error, found = run_holding(twins.compiled, HOLDS[hold])
    assert (found_error is None) == (error is None), (found_error, error)
    if error is None:
        assert_same(expected, found)
    assert "relu_max_pool_after_hooks" in operators(twins.compiled)


def test_a_backward_hook_before_an_in_place_relu_raises_as_in_eager():
    twins = Twins(InPlace)
    twins.each(lambda m: m.conv2.register_full_backward_hook(lambda *_: None))
    for model in (twins.eager, twins.compiled):
        with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
            model(X.clone().requires_grad_())


def test_a_hook_that_holds_nothing_costs_nothing():
    twins = Twins(InPlace)
    before = saved_bytes(twins.compiled, X)
    twins.compiled.conv1.register_forward_hook(lambda m, args, out: None)
    twins.compiled.conv2.register_forward_hook(lambda m, args, out: out.clone())
    assert saved_bytes(twins.compiled, X) == before


def test_a_hook_that_changes_the_gradient():
    twins = Twins()
    twins.each(lambda m: m.conv2.register_full_backward_hook(lambda m, grads, _: (grads[0] * 0.5,)))
    twins.each(lambda m: m.relu.register_full_backward_pre_hook(lambda m, grads: (grads[0] * 3,)))
    for _ in range(2):
        twins.step()
    assert operators(twins.compiled).count("relu") == 2


# ---- containers --------------------------------------------------------------------------------


class Nested(nn.Sequential):
    def __init__(self):
        block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        super().__init__(block, nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


@pytest.mark.parametrize("kind", REGISTER)
def test_a_hook_on_a_container_is_a_boundary_and_its_children_stay_compiled(kind):
    twins = Logged(Nested)
    twins.step()
    whole = operators(twins.compiled)
    handles = twins.hook(REGISTER[kind], "0")
    for _ in range(2):
        twins.step()
    twins.check_logs(at_least=2)
    outer, inner = operators(twins.compiled), twins.compiled._fxpass_unit.child(twins.compiled[0])
    # The container returns its last activation, which stays dense there.
    assert outer == ["conv2d", "relu", "linear"]
    assert "fxpass.relu" in inner.latest().program.source
    assert inner.latest().program.source.count("fxpass.conv2d") == 2
    for handle in handles:
        handle.remove()
    twins.step()
    assert operators(twins.compiled) == whole


def test_a_hook_on_a_container_replaces_its_result():
    twins = Twins(Nested)
    twins.each(lambda m: m[0].register_forward_hook(lambda m, args, out: out * 0.5))
    twins.each(lambda m: m[0].register_forward_pre_hook(lambda m, args: (args[0] + 1,)))
    for _ in range(2):
        twins.step()


# ---- global hooks ------------------------------------------------------------------------------

GLOBAL = {
    "forward": nn_module.register_module_forward_hook,
    "forward pre": nn_module.register_module_forward_pre_hook,
    "backward": nn_module.register_module_full_backward_hook,
    "backward pre": nn_module.register_module_full_backward_pre_hook,
}


@pytest.mark.parametrize("kind", GLOBAL)
@pytest.mark.parametrize("make", [Net, Nested])
def test_a_global_hook_sees_every_module(kind, make):
    twins = Logged(make)
    twins.step()
    log = {}
    for model in (twins.eager, twins.compiled):
        log[model] = Log()
        handle = GLOBAL[kind](log[model])
        try:
            torch.manual_seed(1)
            for _ in range(2):
                model(X.clone().requires_grad_()).sum().backward()
        finally:
            handle.remove()
    eager, compiled = log[twins.eager].entries, log[twins.compiled].entries
    assert len(eager) >= 10
    assert [name for name, _ in eager] == [name for name, _ in compiled]
    for (_, expected), (_, found) in zip(eager, compiled, strict=True):
        assert_same(expected, found)
    twins.each(lambda m: m.zero_grad())
    twins.step()


# ---- what torch.nn.utils builds from hooks and properties ---------------------------------------


def pruned(m):
    prune.l1_unstructured(m.conv2, "weight", amount=0.5)
    prune.random_unstructured(m.conv2, "bias", amount=0.3)
    prune.ln_structured(m.head, "weight", amount=0.4, n=2, dim=1)


def no_longer_pruned(m):
    for name in ("weight", "bias"):
        prune.remove(m.conv2, name)


class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("change", "back"),
    [
        (pruned, no_longer_pruned),
        (
            lambda m: nn.utils.weight_norm(m.conv2),
            lambda m: nn.utils.remove_weight_norm(m.conv2),
        ),
        (
            lambda m: nn.utils.spectral_norm(m.conv2),
            lambda m: nn.utils.remove_spectral_norm(m.conv2),
        ),
        (
            lambda m: parametrizations.weight_norm(m.conv2),
            lambda m: parametrize.remove_parametrizations(m.conv2, "weight"),
        ),
        (
            lambda m: parametrizations.spectral_norm(m.conv2),
            lambda m: parametrize.remove_parametrizations(m.conv2, "weight"),
        ),
        (
            lambda m: parametrize.register_parametrization(m.head, "weight", Doubled()),
            lambda m: parametrize.remove_parametrizations(m.head, "weight"),
        ),
    ],
    ids=["prune", "weight_norm", "spectral_norm", "new weight_norm", "new spectral_norm", "own"],
)
def test_weights_computed_by_torch_nn_utils(change, back):
    twins = Twins()
    twins.step()

    def seeded(function):
        def run(m):
            torch.manual_seed(4)
            function(m)

        return run

    twins.each(seeded(change))
    for _ in range(3):
        twins.step()
    assert operators(twins.compiled) == OPERATORS
    twins.each(lambda m: m.eval())
    twins.step()
    twins.each(lambda m: m.train())
    twins.each(seeded(back))
    for _ in range(2):
        twins.step()
    assert operators(twins.compiled) == OPERATORS


def test_compile_runs_no_parametrization():
    twins = Twins(lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)))
    assert_same(bits(dict(twins.eager.state_dict())), bits(dict(twins.compiled.state_dict())))
    for _ in range(2):
        twins.step()


def test_a_pruned_network_saves_as_little():
    twins = Twins()
    twins.step()
    before = saved_bytes(twins.compiled, X)
    twins.each(lambda m: prune.l1_unstructured(m.conv2, "weight", amount=0.5))
    twins.step()
    masked_weight = 4 * twins.compiled.conv2.weight.numel()
    assert saved_bytes(twins.compiled, X) <= before + 2 * masked_weight


def test_lazy_modules():
    class Lazy(nn.Sequential):
        def __init__(self):
            super().__init__(nn.LazyConv2d(4, 3), nn.ReLU(), nn.LazyConv2d(4, 3), nn.ReLU())
            self.append(nn.Flatten()).append(nn.LazyLinear(2))

    torch.manual_seed(0)
    twins = Twins.__new__(Twins)
    twins.eager = Lazy()
    twins.compiled = fxpass.compile(Lazy())
    for model in (twins.eager, twins.compiled):
        torch.manual_seed(0)
        model(X)
    for _ in range(2):
        twins.step()
    assert operators(twins.compiled) == ["conv2d", "relu", "conv2d", "relu", "linear"]
