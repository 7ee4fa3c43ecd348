"""What fxpass.verify says of kernels and rewrites that are broken on purpose."""

import contextlib
import io
import re

import pytest
import torch
from _blocks import conv, image, made
from _broken import BREAKS, Break, Layers, wrong_later
from _twins import Net
from torch import nn

import fxpass
from fxpass import MismatchError, _lowering
from fxpass.capture import ArgPattern, capture_unit
from fxpass.edges import origins_of

INPUTS = (image().detach(),)


def complaint(model, inputs=INPUTS, steps=2):
    with pytest.raises(MismatchError) as caught:
        fxpass.verify(model, *inputs, steps=steps)
    return str(caught.value)


def named(message):
    """The ops that are named, and the edges."""
    ops = re.findall(r"^the first op that differs: (.*)$", message, re.MULTILINE)
    return ops, re.findall(r"^  its edge: ([\w:]+),", message, re.MULTILINE)


def advised(message, **names):
    """What the code that the message ends with makes of the model."""
    code = message.split("with this it equals the original:\n")[1]
    space = {"fxpass": fxpass, **names}
    exec("\n".join(line.removeprefix("  ") for line in code.splitlines()), space)
    return space["compiled"]


@pytest.mark.parametrize("wrong", BREAKS, ids=lambda wrong: wrong.what)
def test_the_op_and_the_edge_are_named_and_the_advice_helps(wrong, monkeypatch):
    model = wrong.model()
    assert fxpass.verify(model, *INPUTS, steps=2).gradients  # all is well
    wrong.apply(monkeypatch)
    message = complaint(model)
    assert message.startswith("the compiled model differs from the original in")
    assert named(message) == ([wrong.named], [wrong.edge])
    compiled = advised(message, model=model, inputs=INPUTS)
    assert fxpass.verify(compiled, *INPUTS, steps=2).gradients
    choice = next(c for c in compiled.plan if c.value == wrong.edge)
    assert (choice.recipe, choice.fixed) == ("dense", True)
    # The rest is rewritten as before.
    untouched = [c for c in compiled.plan if c.recipe != "dense"]
    assert len(untouched) >= 3


def test_the_recipe_and_who_saves_the_edge_are_said(monkeypatch):
    Break("", "relu3", "", "", "relu").apply(monkeypatch)
    line = "its edge: relu3, computed by module relu3, saved by module relu3, module conv6, kept as"
    assert f"  {line} bitmap\n" in complaint(Layers())


def chain(n=4):
    torch.manual_seed(0)
    return nn.Sequential(conv(3), *(layer for _ in range(n) for layer in (nn.ReLU(), conv())))


def test_a_kernel_that_is_wrong_everywhere(monkeypatch):
    model = chain(6)
    for i in range(6):
        Break("", f"_{2 * i + 1}", "", "", "relu").apply(monkeypatch)
    message = complaint(model)
    assert named(message)[0] == ["ReLU 1", "ReLU 3", "ReLU 5"]
    compiled = advised(message, model=model, inputs=INPUTS)
    assert fxpass.verify(compiled, *INPUTS).gradients
    assert [c.value for c in compiled.plan if c.fixed] == [f"_{2 * i + 1}" for i in range(6)]


def test_functions_know_the_module_in_whose_forward_they_are_called():
    model = made("residual with downsampling")
    graph = capture_unit(model, ArgPattern.of(INPUTS, {})).graph
    adds = [origins_of(node)[0] for node in graph.nodes if node.name.startswith("add")]
    assert [(origin.op, origin.module) for origin in adds] == [("add", "3"), ("add", "4")]


def test_two_that_are_wrong(monkeypatch):
    model = Layers()
    Break("", "relu3", "", "", "relu").apply(monkeypatch)
    Break("", "conv3", "", "", "conv2d").apply(monkeypatch)
    message = complaint(model)
    assert named(message) == (["Conv2d conv3", "ReLU relu3"], ["conv2", "relu3"])
    assert fxpass.verify(advised(message, model=model, inputs=INPUTS), *INPUTS).gradients


def test_one_that_is_wrong_at_once_and_one_later(monkeypatch):
    model = Layers()
    Break("", "relu3", "", "", "relu", wrong_later).apply(monkeypatch)
    Break("", "conv3", "", "", "conv2d").apply(monkeypatch)
    message = complaint(model)
    assert named(message) == (["Conv2d conv3", "ReLU relu3"], ["conv2", "relu3"])
    assert fxpass.verify(advised(message, model=model, inputs=INPUTS), *INPUTS).gradients


def test_one_of_two_is_in_the_gradient_of_the_input_alone(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), conv(3), nn.ReLU(), conv())
    for at in ("_0", "_2"):
        Break("", at, "", "", "relu").apply(monkeypatch)
    message = complaint(model)
    assert named(message) == (["ReLU 2", "ReLU 0"], ["_2", "_0"])
    assert fxpass.verify(advised(message, model=model, inputs=INPUTS), *INPUTS).gradients


def test_a_part_that_is_compiled_on_its_own(monkeypatch):
    model = nn.Sequential(chain(2), nn.ReLU(), conv())
    model[0].register_forward_hook(lambda *_: None)
    Break("", "_3", "", "", "relu").apply(monkeypatch)
    message = complaint(model)
    assert named(message) == (["ReLU 0.3"], ["0:_3"])
    compiled = advised(message, model=model, inputs=INPUTS)
    assert fxpass.verify(compiled, *INPUTS).gradients
    assert compiled.explain().count("asked to be dense") == 1


def test_a_model_that_has_a_plan_already(monkeypatch):
    model = Layers()
    plan = fxpass.compile(model).plan.with_dense("relu3")
    compiled = fxpass.compile(model, plan=plan)
    Break("", "relu3", "", "", "relu").apply(monkeypatch)
    Break("", "conv3", "", "", "conv2d").apply(monkeypatch)
    message = complaint(fxpass.compile(model, plan=plan))
    assert named(message) == (["Conv2d conv3"], ["conv2"])
    better = advised(message, model=model, compiled=compiled)
    assert {c.value for c in better.plan if c.fixed} == {"relu3", "conv2"}
    assert fxpass.verify(better, *INPUTS).gradients


def test_an_op_that_raises_is_named(monkeypatch):
    Break("", "average", "", "", arguments={"kernel_size": 99}).apply(monkeypatch)
    message = complaint(Layers())
    assert named(message) == (["AvgPool2d average"], ["add"])


def test_the_graph_itself_is_wrong(monkeypatch):
    right = _lowering.find_edges

    def wrong(graph, *args):
        for node in graph.nodes:
            if node.name == "mul":
                node.args = (node.args[0], 0.25)
        return right(graph, *args)

    monkeypatch.setattr(_lowering, "find_edges", wrong)
    assert complaint(Layers()).endswith("so the graph itself is not what the model does")


def test_what_does_not_come_again_is_not_blamed_on_an_op(monkeypatch):
    with monkeypatch.context() as here:
        Break("", "relu3", "", "", "relu").apply(here)
        compiled = fxpass.compile(Layers())
    message = complaint(compiled)
    assert message.endswith("no op is to blame: compiled again, the model does not differ")


def test_the_number_of_trials_grows_with_the_logarithm(monkeypatch):
    trials = []
    right = _lowering.Lowering.__call__
    monkeypatch.setattr(
        _lowering.Lowering, "__call__", lambda *args: (trials.append(1), right(*args))[1]
    )
    counts = {}
    for n in (4, 32):
        with monkeypatch.context() as here:
            model = chain(n)
            Break("", "_5", "", "", "relu").apply(here)
            trials.clear()
            assert named(complaint(model, steps=1))[1] == ["_5"]
            counts[n] = len(trials)
    assert counts[32] <= counts[4] + 4


def test_a_mismatch_in_the_gradient_of_the_input_alone(monkeypatch):
    # Without a gradient for the input, the first ReLU has none to get wrong.
    model = nn.Sequential(nn.ReLU(), conv(3), nn.ReLU(), conv())
    Break("", "_0", "", "", "relu").apply(monkeypatch)
    message = complaint(model)
    assert "input gradient" in message.splitlines()[1]
    assert named(message) == (["ReLU 0"], ["_0"])
    assert fxpass.verify(advised(message, model=model, inputs=INPUTS), *INPUTS).gradients


def test_trials_leave_everything_as_found(monkeypatch):
    model = Net()
    Break("", "relu", "", "", "batch_norm").apply(monkeypatch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    x = torch.randn(4, 3, 8, 8)
    torch.set_rng_state(random)
    complaint(model, (x,))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_the_trials_are_counted_on_a_terminal_only(stream, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    Break("", "relu3", "", "", "relu").apply(monkeypatch)
    shown = stream()
    with contextlib.redirect_stderr(shown):
        complaint(Layers())
    assert ("looking for the op" in shown.getvalue()) == (stream is Terminal)
