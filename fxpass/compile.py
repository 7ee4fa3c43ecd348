"""`fxpass.compile`: capture, edges, plan, rewrite, run."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import nn

from fxpass.capture import ArgPattern, Capture, Loss
from fxpass.edges import find_edges
from fxpass.errors import TraceError
from fxpass.plan import Plan, free_plan
from fxpass.rewrite import rewrite
from fxpass.runtime.module import CompiledModule, compiled_module
from fxpass.runtime.unit import Unit


def compile(
    model: nn.Module, example_inputs: tuple[Any, ...] | None = None, *, strict: bool = False
) -> CompiledModule:
    """A module that trains exactly as `model` does and keeps far fewer bytes for backward.

    Outputs, gradients, buffers and the RNG state are the same to the last bit. The result shares the
    model's parameters, buffers and submodules; `model` itself is not changed.

    Args:
        model: the model to train. A part that cannot be traced without loss runs its own Python
            forward with its children compiled; a warning names it.
        example_inputs: what the model will be called with, as a tuple. Without them the model is
            traced for tensors in place of its required arguments; another form of call is traced
            when it first comes.
        strict: raise TraceError instead of warning.

    Raises:
        TypeError: `model` is no nn.Module, or `example_inputs` is no tuple.
        TraceError: with `strict`, if a part of the model cannot be traced.

    """
    if isinstance(model, CompiledModule):
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"fxpass.compile: expected model to be a torch.nn.Module, got {_kind(model)}; "
            "wrap a function in a module whose forward calls it"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "fxpass.compile: expected an eager torch.nn.Module, got a TorchScript module; "
            "compile the model before it is scripted"
        )
    if example_inputs is not None and not isinstance(example_inputs, tuple):
        raise TypeError(
            "fxpass.compile: expected example_inputs to be a tuple of the model's arguments, got "
            f"{_kind(example_inputs)}; for one argument write (x,)"
        )
    compiled = recompile(model, strict)
    pattern = _first_pattern(model, example_inputs)
    if pattern is not None:
        compiled._unit.find(pattern)
    return compiled


def recompile(model: nn.Module, strict: bool) -> CompiledModule:
    """A CompiledModule that traces when it is first called: what deepcopy and pickle make."""
    return compiled_module(model, Unit(model, lower, _refuse if strict else _warn), strict)


def lower(capture: Capture) -> Plan:
    """Edges, plan, rewrite: turns a captured graph into one of fxpass operators, in place."""
    opaque = frozenset({*capture.boundaries, *capture.overridden})
    edges = find_edges(capture.graph, capture.root, opaque, capture.hooked)
    plan = free_plan(edges)
    rewrite(edges, plan)
    return plan


def _first_pattern(model: nn.Module, example_inputs: tuple[Any, ...] | None) -> ArgPattern | None:
    """The form of call to trace at once: the example's, or a tensor for each required argument."""
    if example_inputs is None:
        parameters = inspect.signature(model.forward).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.KEYWORD_ONLY) for p in parameters):
            return None
        required = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        example_inputs = tuple(torch.empty(0) for _ in required)
    return ArgPattern.of(example_inputs, {})


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _describe(module: nn.Module, losses: list[Loss]) -> str:
    parts = "; ".join(str(loss) for loss in losses)
    return (
        f"fxpass: a trace of {type(module).__name__} would lose something, so these parts run their "
        f"own forward, with their children compiled: {parts}"
    )


def _warn(module: nn.Module, losses: list[Loss]) -> None:
    warnings.warn(_describe(module, losses), stacklevel=2)


def _refuse(module: nn.Module, losses: list[Loss]) -> None:
    raise TraceError(_describe(module, losses))
