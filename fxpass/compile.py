"""`fxpass.compile`: capture, edges, plan, rewrite, run."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from fxpass._preserved import preserved
from fxpass.capture import ArgPattern, Capture
from fxpass.edges import find_edges
from fxpass.errors import TraceError
from fxpass.plan import Plan, free_plan
from fxpass.rewrite import rewrite
from fxpass.runtime.module import CompiledModule, compiled_module
from fxpass.runtime.report import LossReport, share_line
from fxpass.runtime.share import uncompiled_share
from fxpass.runtime.unit import Unit


def compile(
    model: nn.Module, example_inputs: tuple[Any, ...] | None = None, *, strict: bool = False
) -> CompiledModule:
    """A module that trains exactly as `model` does and keeps far fewer bytes for backward.

    Outputs, gradients, buffers and the RNG state are the same to the last bit. The result shares
    the model's parameters, buffers and submodules; `model` itself is not changed.

    Args:
        model: the model to train. A part that cannot be traced without loss runs its own Python
            forward with its children compiled; a warning names it, and with `example_inputs` the
            share of the saved bytes that stays as it is.
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
    report = LossReport(model, strict)
    unit = Unit(model, lower, report)
    compiled = compiled_module(model, unit, strict)
    pattern = _first_pattern(model, example_inputs)
    if pattern is not None:
        with report.together() as lines:
            unit.find(pattern)
            if lines and example_inputs is not None:
                lines.append(_share(compiled, unit, example_inputs))
    return compiled


def recompile(model: nn.Module, strict: bool) -> CompiledModule:
    """A CompiledModule that traces when it is first called: what deepcopy and pickle make."""
    return compiled_module(model, Unit(model, lower, LossReport(model, strict)), strict)


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
        if any(p.annotation in _NO_TENSORS for p in required):
            return None
        example_inputs = tuple(torch.empty(0) for _ in required)
    return ArgPattern.of(example_inputs, {})


_NO_TENSORS = (bool, int, float, str, "bool", "int", "float", "str")


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _share(compiled: CompiledModule, unit: Unit, example_inputs: tuple[Any, ...]) -> str:
    """How much stays uncompiled: a call of the compiled model finds the parts, then eager runs."""
    try:
        with preserved(compiled.original, example_inputs), torch.enable_grad():
            compiled(*example_inputs)
        lossy = set(unit.own_forwards())
        return share_line(uncompiled_share(compiled.original, lossy, example_inputs))
    except TraceError:
        raise
    except Exception as error:
        return f"what share of the saved bytes that is, nobody knows: the model raised {error!r}"
