"""`fxpass.compile`: capture, edges, plan, rewrite, run."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import nn

from fxpass._lowering import Lowering, require_parts
from fxpass._preserved import preserved
from fxpass.budget import PLANNERS, Planner
from fxpass.capture import ArgPattern
from fxpass.errors import TraceError
from fxpass.plan import Plan
from fxpass.runtime.module import CompiledModule, compiled_module
from fxpass.runtime.report import LossReport, share_line
from fxpass.runtime.share import uncompiled_share
from fxpass.runtime.unit import Unit


def compile(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | None = None,
    *,
    memory_budget: int | float | str | None = None,
    plan: Plan | None = None,
    strict: bool = False,
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
        memory_budget: the most bytes that may be live in a forward and a backward, above what is
            live when the step begins, `.grad` being None then: bytes (int), a string ("300MB" is
            3e8 bytes, "1.5GiB"), or a fraction of eager's predicted peak (float in (0, 1]). The
            plan is the fastest found that fits; it may run convolutions and linear layers again in
            backward. It holds for inputs no larger than the example's.
        plan: what is dense in it stays dense; all else is as without it. Made from the plan of the
            same model: `compiled.plan.with_dense("layer1_0_relu")`. Of a part that is compiled on
            its own the values are named "path.of.the.part:value". A plan that was made for a
            memory budget is followed, and nothing is measured again.
        strict: raise TraceError instead of warning.

    Raises:
        TypeError: `model` is no nn.Module, `example_inputs` no tuple, `plan` no Plan, or
            `memory_budget` none of these, or given without `example_inputs`.
        ValueError: `plan` names values that the model does not have. Of a part they are looked for
            when it is traced, and that may be in its first call. Or `memory_budget` is not
            understood, or given together with `plan`.
        BudgetError: no plan that fits the budget was found; the message names the smallest peak.
        TraceError: with `strict`, if a part of the model cannot be traced; with `memory_budget`, if
            the model does not trace as one graph.

    """
    if plan is not None and not isinstance(plan, Plan):
        raise TypeError(
            f"fxpass.compile: expected plan to be a fxpass.Plan, got {_kind(plan)}; "
            "`compiled.plan` of a compiled model is one"
        )
    if isinstance(model, CompiledModule):
        if plan is None and memory_budget is None:
            return model
        model = model.original
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
    if example_inputs is not None:
        _require_inputs("compile", example_inputs)
    if plan is not None:
        require_parts(plan, model)
    replanning = None
    if memory_budget is not None:
        _check_budgeted(example_inputs, plan)
        assert example_inputs is not None
        replanning = _Replanning(model, example_inputs, strict)
        plan = replanning.plan(memory_budget)
    report = LossReport(model, strict)
    unit = Unit(model, Lowering(model, plan, is_new=True), report)
    compiled = compiled_module(model, unit, strict, plan, replanning)
    pattern = first_pattern(model, example_inputs)
    if pattern is not None:
        if example_inputs is not None:
            unit.note(*ArgPattern.split(example_inputs, {}))
        with report.together() as lines:
            unit.find(pattern)
            if lines and example_inputs is not None:
                lines.append(_share(compiled, unit, example_inputs))
    return compiled


def plan(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    memory_budget: int | float | str,
    planner: str = "op",
) -> Plan:
    """The plan with which `compile` would train `model` within a memory budget.

    Args:
        model: the model to train.
        example_inputs: what it will be called with, as a tuple.
        memory_budget: as in `compile`.
        planner: how the plan is found. "op": any value may be kept or made again, the choice is a
            solver's; what `compile` does. "free": no layer is run again. "uniform", "revolve",
            "optimal": a schedule of the model's chain of blocks, as `checkpoint_chain` has them.
            `compile(model, plan=plan)` follows the plan of any.

    Raises:
        BudgetError: no plan that fits was found; the message names the smallest peak.
        TraceError: the model does not trace as one graph.
        TypeError, ValueError: as in `compile`.

    """
    if planner not in PLANNERS:
        raise ValueError(
            f"fxpass.plan: expected planner to be one of {', '.join(PLANNERS)}, got {planner!r}"
        )
    if planner == "op":
        return compile(model, example_inputs, memory_budget=memory_budget).plan
    _require_inputs("plan", example_inputs)
    return Planner(model, example_inputs).plan(memory_budget, planner)


class _Replanning:
    """Plans and units of a model for one memory budget after another; measures when first asked."""

    def __init__(self, model: nn.Module, example_inputs: tuple[Any, ...], strict: bool) -> None:
        self._model, self._strict = model, strict
        self._planner = functools.cache(lambda: Planner(model, example_inputs))

    def plan(self, memory_budget: int | float | str) -> Plan:
        return self._planner().plan(memory_budget)

    def __call__(self, memory_budget: int | float | str | None) -> tuple[Plan | None, Unit]:
        plan = None if memory_budget is None else self.plan(memory_budget)
        report = LossReport(self._model, self._strict)
        return plan, Unit(self._model, Lowering(self._model, plan), report)


def _require_inputs(of: str, example_inputs: object) -> None:
    if not isinstance(example_inputs, tuple):
        raise TypeError(
            f"fxpass.{of}: expected example_inputs to be a tuple of the model's arguments, got "
            f"{_kind(example_inputs)}; for one argument write (x,)"
        )


def _check_budgeted(example_inputs: tuple[Any, ...] | None, plan: Plan | None) -> None:
    if example_inputs is None:
        raise TypeError(
            "fxpass.compile: memory_budget needs example_inputs, a tuple of the model's arguments: "
            "what fits depends on their sizes"
        )
    if plan is not None:
        raise ValueError(
            "fxpass.compile: expected memory_budget or plan, got both; a plan that was made for a "
            "budget is followed as it is"
        )


def recompile(model: nn.Module, strict: bool, plan: Plan | None = None) -> CompiledModule:
    """A CompiledModule that traces when it is first called: what deepcopy and pickle make."""
    unit = Unit(model, Lowering(model, plan), LossReport(model, strict))
    return compiled_module(model, unit, strict, plan)


def first_pattern(model: nn.Module, example_inputs: tuple[Any, ...] | None) -> ArgPattern | None:
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
