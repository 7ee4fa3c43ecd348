"""What is exported of a compiled model, whatever the format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Graph

from fxpass._lowering import Lowering
from fxpass.capture import ArgPattern, Capture
from fxpass.compile import first_pattern
from fxpass.errors import ExportError
from fxpass.export.whole import whole_graph
from fxpass.plan import Plan
from fxpass.runtime.module import CompiledModule


@dataclass(frozen=True)
class Input:
    """One tensor that the model takes; shape and dtype of the example or first call, if known."""

    name: str
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Mode:
    """A graph, and the modules (by path) that are in training mode in it."""

    graph: Graph
    training: frozenset[str]


@dataclass(frozen=True)
class Trainable:
    """A model as graphs over its own parameters and buffers.

    Attributes:
        model: has the parameters, buffers and submodules that the graphs name.
        train: the rewritten graph in training mode.
        eval: the rewritten graph in evaluation mode; gradients flow there too.
        infer: the model's own graph in evaluation mode.
        inputs: the tensors that each graph takes, in order.
        plan: the plan of `train`.

    """

    model: nn.Module
    train: Mode
    eval: Mode
    infer: Mode
    inputs: tuple[Input, ...]
    plan: Plan


def collect(compiled: CompiledModule) -> Trainable:
    """The graphs of a compiled model; its training flags are as they were afterwards.

    A model that is in training mode is taken with the flags that it has (a frozen batch norm, say).

    Raises:
        ExportError: the model cannot be written as graphs, or its arguments are not known.

    """
    model = compiled.original
    pattern, forms = _call(compiled)
    choices: list[Plan] = []
    with _training_flags(model):
        if not model.training:
            model.train()
        train = _rewritten(compiled, pattern, choices)
        model.eval()
        evaluation = _rewritten(compiled, pattern, [])
        infer = Mode(whole_graph(model, pattern, lambda module, capture: None), frozenset())
    names = [str(node.target) for node in train.graph.nodes if node.op == "placeholder"]
    inputs = tuple(
        Input(name, *(forms[i] if forms else (None, None))) for i, name in enumerate(names)
    )
    plan = Plan(tuple(choice for plan in choices for choice in plan))
    return Trainable(model, train, evaluation, infer, inputs, plan)


def _rewritten(compiled: CompiledModule, pattern: ArgPattern, plans: list[Plan]) -> Mode:
    model = compiled.original
    paths = {module: path for path, module in model.named_modules()}
    lowering = Lowering(model, compiled._fxpass_given)

    def lower(module: nn.Module, capture: Capture) -> None:
        plans.append(lowering(capture).at(paths.get(module, "")))

    graph = whole_graph(model, pattern, lower)
    return Mode(graph, frozenset(path for path, m in model.named_modules() if m.training))


def _call(compiled: CompiledModule) -> tuple[ArgPattern, list[tuple[tuple[int, ...], torch.dtype]]]:
    """The form of call to export: the example's or first call's, or a tensor for each argument."""
    if compiled._fxpass_unit.example is not None:
        pattern, forms = compiled._fxpass_unit.example
    else:
        guessed = first_pattern(compiled.original, None)
        if guessed is None:
            raise ExportError(
                "fxpass.export_torchscript: nobody knows what the model is called with; call it"
                " once, or give example_inputs to fxpass.compile"
            )
        pattern, forms = guessed, []
    if not pattern.is_flat:
        raise ExportError(
            "fxpass.export_torchscript: expected a model whose arguments are tensors, got one that"
            f" is called with {pattern}; pass the tensors one by one"
        )
    return pattern, forms


@contextmanager
def _training_flags(model: nn.Module) -> Iterator[None]:
    """Puts the flags back, also where the model's own train() sets them in its own way."""
    flags = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training
