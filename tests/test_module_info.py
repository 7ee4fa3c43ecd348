"""Every module of torch's own test database (ModuleInfo), compiled: eager's bits, and no refusal.

Each module is called with the database's inputs: by itself, and where it takes one tensor between
a ReLU and an average pool, which is where fxpass would change it. `STAYS_EAGER` lists what no
recipe changes, `OWN_FORWARD` what no trace can be believed of; an entry that is missing in either,
or no longer belongs there, fails. FXPASS_HYPOTHESIS=deep takes all inputs, not a few of each.
"""

import functools
import itertools
import os
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

import fxpass
from fxpass._oracle import Loop, Value, compare, record
from fxpass.plan import Recipe

# The import above forbids everyone in this process to set torch.backends' flags.
torch.backends.__allow_nonbracketed_mutation_flag = True

pytestmark = pytest.mark.usefixtures("one_thread")

INFOS = {info.name: info for info in module_db}
LAZY = [name for name, info in INFOS.items() if info.is_lazy]
MOST_INPUTS = 10**6 if os.environ.get("FXPASS_HYPOTHESIS") == "deep" else 4  # of an entry and mode
STEPS = 2

STAYS_EAGER = {
    "backward reads the elements of its input or result, and no recipe restores them": """
        Bilinear LPPool1d LPPool2d LPPool3d LocalResponseNorm
        Softmin Softsign Tanhshrink
    """,
    "a norm keeps its input, of which it needs every element": """
        RMSNorm
    """,
    "a pool at random places, which keeps its indices": """
        FractionalMaxPool2d FractionalMaxPool3d
    """,
    "backward reads the indices only, which the caller has": """
        Embedding
    """,
    "it is a copy of pieces, which keeps nothing": """
        CircularPad1d CircularPad2d CircularPad3d
    """,
    "a loss reads a few outputs, once": """
        BCELoss BCEWithLogitsLoss CTCLoss CosineEmbeddingLoss CrossEntropyLoss GaussianNLLLoss
        HingeEmbeddingLoss HuberLoss KLDivLoss L1Loss LinearCrossEntropyLoss MSELoss
        MarginRankingLoss MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss
        PoissonNLLLoss SmoothL1Loss SoftMarginLoss
    """,
    "one operator of torch for all time steps, or for the gates of one": """
        GRU GRUCell LSTM LSTMCell RNN RNNCell
    """,
    "it runs its own forward (see OWN_FORWARD), where no ReLU meets a layer of the same part": """
        MultiheadAttention TransformerEncoder TransformerEncoderLayer
    """,
}
EAGER = {f"nn.{name}": why for why, names in STAYS_EAGER.items() for name in names.split()}

DECIDES = "decides on a value known only at run time"
OWN_FORWARD = {
    "nn.LinearCrossEntropyLoss": "makes a LinearCrossEntropyOptions",
    "nn.MultiheadAttention": DECIDES,
    "nn.Transformer": DECIDES,
    "nn.TransformerEncoder": DECIDES,
    "nn.TransformerEncoderLayer": DECIDES,
}


class Call(nn.Module):
    """Calls a module with arguments and keywords given as one tuple and one dict."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, args, kwargs):
        return self.module(*args, **kwargs)


class Pooled(nn.Module):
    """Reads any tensor with an op whose backward needs none of the elements."""

    def forward(self, x):
        return F.avg_pool1d(x.reshape(1, 1, -1), 1)


def weighted_sum(output):
    """A loss that gives each element a gradient of its own."""
    generator = torch.Generator().manual_seed(5)
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    terms = [
        (leaf * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)).sum()
        for leaf in leaves
        if leaf.is_floating_point()
    ]
    return torch.stack(terms).sum()


def inputs_of(info, training, dtype, most):
    """The database's constructor and forward arguments; at most so many, from all over the list."""
    torch.manual_seed(0)
    given = {"device": "cpu", "dtype": dtype, "requires_grad": True, "training": training}
    inputs = list(info.module_inputs_func(info, **given))
    # Eval mode takes others than training where they are many.
    return inputs[0 if training else 1 :: len(inputs) // most] if len(inputs) > most else inputs


def built(info, given, training, dtype):
    """The module from a fixed seed; a lazy one as its first call leaves it."""
    torch.manual_seed(1)
    made = info.module_cls(*given.constructor_input.args, **given.constructor_input.kwargs)
    made = made.to(dtype).train(training)  # `to` also for samples that are always float64
    if info.is_lazy:
        made(*given.forward_input.args, **given.forward_input.kwargs)
    return made


def only_tensor(forward_input):
    """The input if it is one floating tensor, else None."""
    values = [*forward_input.args, *forward_input.kwargs.values()]
    floating = len(values) == 1 and isinstance(values[0], Tensor) and values[0].is_floating_point()
    return values[0] if floating else None


def between(module, x):
    """A ReLU, the module, an average pool if the module gives it one tensor, on its own memory."""
    torch.manual_seed(2)
    with torch.no_grad():
        output = module(x.detach().clone())
    poolable = isinstance(output, Tensor) and output.is_floating_point() and output.numel() > 0
    after = [Pooled()] if poolable else []
    return nn.Sequential(nn.ReLU(), module, *after).train(module.training)


class Found:
    """What was seen of one entry, over its inputs and modes."""

    def __init__(self):
        self.trained = 0
        self.raised = []  # what eager raises, and the compiled module then too
        self.changed = False  # a recipe changes what is kept
        self.losses = set()  # what fxpass says a trace would have lost

    def compare(self, label, module, args, kwargs, saves):
        """Eager twice, then compiled, from one state; fails unless all are the same."""
        loop = Loop(STEPS, weighted_sum)
        first, eagers = watched(Call(module), (args, kwargs), loop)
        again, _ = watched(Call(module), (args, kwargs), loop)
        assert not compare(first, again), f"{label}: eager does not equal itself"
        with warnings.catch_warnings(record=True, action="always") as caught:
            compiled = fxpass.compile(module)
        found, ours = watched(Call(compiled), (args, kwargs), loop)
        ours |= {str(warning.message) for warning in caught}
        differences = [f"{label}: {difference}" for difference in compare(first, found)]
        assert not differences, "\n".join(differences)
        told = {message for message in ours if message.startswith("fxpass")}
        assert ours - told <= eagers, f"{label}: warnings that eager does not give"
        gradients = [v for k, v in first.values.items() if "gradient" in k.kind]
        self.raised += [f"{label}: {first.error!r}"] if first.error else []
        self.trained += any(isinstance(gradient, Value) for gradient in gradients)
        self.losses |= told
        self.changed |= any(map(saves, all_choices(compiled)))


def watched(call, inputs, loop):
    """The recording of a training loop, and the messages of all its warnings."""
    with warnings.catch_warnings(record=True, action="always") as caught:
        recording = record(call, inputs, loop)
    return recording, {str(warning.message) for warning in caught}


def all_choices(compiled):
    plans = (plan for _, plan, _ in compiled._fxpass_unit.plans())
    return itertools.chain.from_iterable(plans)


def is_cheaper(choice):
    return choice.recipe is not Recipe.DENSE and bool(choice.savers)


def is_cheaper_between(choice):
    """Whether a recipe changes what the module between the ReLU and the pool saves."""
    return is_cheaper(choice) and "module 1" in choice.savers


@functools.cache
def found_of(name):
    """Compares the entry in both modes, in float32, and half as many inputs in float64."""
    info, found = INFOS[name], Found()
    settings = ((True, torch.float32), (False, torch.float32), (True, torch.float64))
    for training, dtype in settings:
        most = MOST_INPUTS if dtype is torch.float32 else MOST_INPUTS // 2
        with warnings.catch_warnings(action="ignore"):  # those of the database's own making
            given = inputs_of(info, training, dtype, most)
        for one in given:
            label = f"{name} {one.desc}, {'training' if training else 'eval'}, {dtype}"
            compare_with(found, label, info, one, training, dtype)
    return found


def compare_with(found, label, info, given, training, dtype):
    args, kwargs = given.forward_input.args, dict(given.forward_input.kwargs)
    with warnings.catch_warnings(action="ignore"):
        module = built(info, given, training, dtype)
    found.compare(label, module, tuple(args), kwargs, is_cheaper)
    x = only_tensor(given.forward_input)
    if x is None:
        return
    with warnings.catch_warnings(action="ignore"):
        wrapped = between(module, x)
    found.compare(f"{label}, wrapped", wrapped, (x,), {}, is_cheaper_between)


@pytest.mark.parametrize("name", INFOS)
def test_equals_eager(name):
    found = found_of(name)
    assert found.trained
    assert not found.raised
    assert found.changed == (name not in EAGER), "STAYS_EAGER is not up to date"
    assert bool(found.losses) == (name in OWN_FORWARD), f"OWN_FORWARD: {found.losses}"
    assert all(OWN_FORWARD[name] in loss for loss in found.losses), found.losses


def test_the_tables_name_entries_of_the_database():
    assert {*EAGER, *OWN_FORWARD} <= INFOS.keys()
    assert sum(len(names.split()) for names in STAYS_EAGER.values()) == len(EAGER)


def first_call(name, wrap, compiled):
    """Output and state of a lazy module's first training step."""
    info = INFOS[name]
    with warnings.catch_warnings(action="ignore"):
        given = inputs_of(info, True, torch.float32, 1)[0]
        torch.manual_seed(1)
        arguments = given.constructor_input
        model = wrap(info.module_cls(*arguments.args, **arguments.kwargs))
        model = fxpass.compile(model) if compiled else model
        output = model(*given.forward_input.args, **given.forward_input.kwargs)
    weighted_sum(output).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"output": output.detach(), "rng": torch.get_rng_state()} | gradients


def alone(module):
    return module


@pytest.mark.parametrize("wrap", [alone, nn.Sequential])
@pytest.mark.parametrize("name", LAZY)
def test_the_first_call_of_a_lazy_module(name, wrap):
    expected, found = first_call(name, wrap, False), first_call(name, wrap, True)
    assert expected.keys() == found.keys()
    assert all(value.equal(found[name]) for name, value in expected.items())


# ---- the comparison itself ---------------------------------------------------------------------


class LastBit(nn.ReLU):
    """Off by one in the last place, in the gradient only."""

    def forward(self, x):
        y = super().forward(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: torch.nextafter(gradient, gradient + 1))
        return y


@pytest.mark.parametrize("name", ["nn.Conv2d", "nn.GELU"])
def test_a_wrong_bit_is_seen(name, monkeypatch):
    def wrong(model):
        return nn.Sequential(LastBit(), *model[1:]) if isinstance(model, nn.Sequential) else model

    compile_it = fxpass.compile
    monkeypatch.setattr(fxpass, "compile", lambda model: compile_it(wrong(model)))
    with pytest.raises(AssertionError, match=f"{name} .*wrapped: input gradient"):
        found_of.__wrapped__(name)
