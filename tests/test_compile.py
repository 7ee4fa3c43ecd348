"""`fxpass.compile`: its arguments, what it says of parts it cannot trace, what it leaves alone."""

import random
import re
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from _twins import Net, Twins, X, assert_same, bits, operators
from torch import nn

import fxpass
from fxpass.runtime.share import Share, uncompiled_share


class Branching(nn.Module):
    """Control flow on values, between two convolutions and a block that can be compiled."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        layers = [nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)]
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        y = torch.tanh(self.first(x))
        if y.sum() > 1e9:  # this line is the reason
            y = -y
        return self.block(self.second(y))


SOURCE = Path(__file__).read_text().splitlines()
LINE = next(i for i, line in enumerate(SOURCE, 1) if line.endswith("# this line is the reason"))


class Around(nn.Module):
    def __init__(self, lossy=Branching):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()
        self.body, self.head = lossy(), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.relu(self.body(self.relu(self.stem(x)))))


def warned(model, *args, **kwargs):
    """The compiled model and the texts of the warnings about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled = fxpass.compile(model, *args, **kwargs)
        first = compiled(X)
        compiled(X)
    assert first.requires_grad
    return compiled, [str(w.message) for w in caught], caught


# ---- arguments ---------------------------------------------------------------------------------


def test_example_inputs_choose_the_form_that_is_traced():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x, other=None):
            return self.conv(F.relu(x)) if other is None else self.conv(F.relu(x) + other)

    x = torch.ones(1, 3, 2, 2)
    for inputs, count in [(None, 0), ((x,), 0), ((x, x), 1), ((x, None), 0)]:
        compiled = fxpass.compile(Optional(), inputs)
        source = compiled._fxpass_unit.latest().program.source
        assert source.count("+") == count
    assert len(fxpass.compile(Optional(), example_inputs=(x,)).plan) > 0


@pytest.mark.parametrize("inputs", [X, [X], {"x": X}])
def test_example_inputs_that_are_no_tuple(inputs):
    with pytest.raises(TypeError, match=r"example_inputs to be a tuple.*got .*; .*write \(x,\)"):
        fxpass.compile(Net(), inputs)


def test_a_compiled_model_is_returned_as_it_is():
    compiled = fxpass.compile(Net())
    assert fxpass.compile(compiled) is compiled
    assert fxpass.compile(compiled, (X,)) is compiled


def test_a_number_among_the_arguments_waits_for_the_first_call():
    class Repeated(Net):
        def forward(self, x, times: int):
            for _ in range(times):
                x = x * 2
            return super().forward(x)

    compiled = fxpass.compile(Repeated(), strict=True)
    assert len(compiled.plan) == 0
    assert compiled(X, 3).requires_grad
    assert "batch_norm" in operators(compiled)


# ---- what is left as found -----------------------------------------------------------------------


@pytest.mark.parametrize("make", [Net, lambda: Around(), lambda: Around(Net32)])
@pytest.mark.parametrize("inputs", [None, (X,)])
def test_compile_leaves_parameters_gradients_buffers_and_rng(make, inputs):
    torch.manual_seed(5)
    model = make()
    model(X).sum().backward()
    hooks = [dict(m._forward_hooks) for m in model.modules()]

    def state():
        grads = {n: p.grad for n, p in model.named_parameters()}
        versions = [p._version for p in model.parameters()]
        return bits([dict(model.state_dict()), grads, torch.get_rng_state(), versions, X])

    before, python, modes = state(), random.getstate(), [m.training for m in model.modules()]
    members = {name: list(m.__dict__) for name, m in model.named_modules()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fxpass.compile(model, inputs)
    assert_same(before, state())
    assert random.getstate() == python
    assert modes == [m.training for m in model.modules()]
    assert members == {name: list(m.__dict__) for name, m in model.named_modules()}
    assert hooks == [dict(m._forward_hooks) for m in model.modules()]


class Net32(Branching):
    """Draws random numbers and updates a batch norm besides."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        return super().forward(F.dropout(self.bn(x + torch.randn(1)), 0.3))


# ---- what cannot be traced -----------------------------------------------------------------------


def test_the_warning_names_the_part_the_reason_and_the_line():
    _, texts, caught = warned(Around())
    assert len(texts) == 1
    assert "body (Branching) decides on a value known only at run time" in texts[0]
    assert f"{__file__}:{LINE}]" in texts[0]
    assert "children compiled" in texts[0]
    assert caught[0].filename == __file__
    assert re.search(r"saved bytes", texts[0]) is None  # unknown without example inputs


def test_the_children_of_a_part_that_cannot_be_traced_are_compiled():
    with pytest.warns(UserWarning, match="Branching"):
        twins = Twins(Around)
    for _ in range(3):
        twins.step()
    assert operators(twins.compiled) == ["conv2d", "relu", "conv2d"]
    assert "body.block (Sequential)" in twins.compiled.explain()
    assert len(twins.compiled.explain().split("\n\n")) > 2


def test_the_model_itself_cannot_be_traced():
    with pytest.warns(UserWarning, match="compiled, because .*: Branching decides"):
        twins = Twins(Branching)
    for _ in range(3):
        twins.step()
    assert twins.compiled.plan.parts() == {"first", "second", "block"}


def test_strict_raises_instead():
    for example_inputs in (None, (X,)):
        with pytest.raises(fxpass.TraceError, match=rf"body \(Branching\).*:{LINE}\]"):
            fxpass.compile(Around(), example_inputs, strict=True)
    compiled = fxpass.compile(Net(), strict=True)
    compiled.relu = Branching()
    with pytest.raises(fxpass.TraceError, match=r"relu \(Branching\)"):
        compiled(X)
    with pytest.raises(fxpass.TraceError, match=r"relu \(Branching\)"):
        compiled(X)


def test_each_part_is_named_once():
    class Two(nn.Sequential):
        def __init__(self):
            super().__init__(Branching(), nn.Conv2d(4, 3, 1), Branching())

    compiled, texts, _ = warned(Two())
    assert len(texts) == 1
    assert "0 (Branching)" in texts[0]
    assert "2 (Branching)" in texts[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled.eval()(X)
        compiled.train()(X)


# ---- the share of saved bytes ----------------------------------------------------------------


def test_the_warning_gives_the_share_of_the_saved_bytes():
    model = Around()
    _, texts, _ = warned(model, (X,))
    assert len(texts) == 1
    share = uncompiled_share(model, {model.body}, (X,))
    assert f"left uncompiled: {share.fraction:.0%} of the saved bytes" in texts[0]
    assert f"({share.uncompiled_bytes:,} of {share.saved_bytes:,})" in texts[0]


def test_the_share_counts_each_storage_once_and_no_container_that_is_compiled():
    model = Branching()
    sizes = {"tanh": 2 * 4 * 64 * 4, "second": 2 * 4 * 64 * 4, "block": 2 * 8 * 64 * 4}
    # tanh saves its result, which is the second convolution's input; the block's own convolution
    # saves the second's result, its ReLU saves what the last convolution saves too.
    total = sum(sizes.values())
    assert uncompiled_share(model, {model}, (X,)) == Share(sizes["tanh"], total)
    assert uncompiled_share(model, set(), (X,)) == Share(0, total)
    inner = uncompiled_share(model, {model, model.block}, (X,))
    assert inner == Share(total, total)


def test_the_share_of_a_model_that_saves_nothing():
    assert Share(0, 0).fraction == 0
    assert uncompiled_share(nn.Identity(), set(), (X,)) == Share(0, 0)


def test_a_model_that_raises_has_no_share():
    class Raising(Branching):
        def forward(self, x):
            if x.sum() > -1e9:
                raise ValueError("not today")
            return x

    with pytest.warns(UserWarning, match="nobody knows: the model raised ValueError"):
        fxpass.compile(Raising(), (X,))


def test_a_model_without_losses_is_not_run():
    class Counted(Net):
        def __init__(self):
            super().__init__()
            self.register_forward_pre_hook(lambda *_: runs.append(1))

    runs = []
    fxpass.compile(Counted(), (X,))
    assert runs == []
