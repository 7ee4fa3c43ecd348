"""`Watch`: sees every call that a forward makes while it is traced, and stops the lossy ones.

fx records what happens to proxies. What a forward does elsewhere (turns gradients off, draws a
random number, asks the clock) happens once, at trace time, and then never again. The interpreter's
profiling hook sees these calls just before they run: a table says which of them lose something.
"""

from __future__ import annotations

import _abc
import builtins
import datetime
import gc
import inspect
import logging
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FrameType
from typing import Any

import torch
from torch.fx import _symbolic_trace
from torch.overrides import TorchFunctionMode
from torch.utils import _device, _python_dispatch, checkpoint

from fxpass.capture.bytecode import CodeFacts
from fxpass.capture.losses import is_importing, is_user_code

Lose = Callable[[str, FrameType], None]


def _function(function: Any) -> CodeType:
    return inspect.unwrap(getattr(function, "__func__", function)).__code__


_PYTHON: dict[CodeType, str] = {
    _function(torch.no_grad.__enter__): "enters torch.no_grad",
    _function(torch.enable_grad.__enter__): "enters torch.enable_grad",
    _function(torch.set_grad_enabled.__init__): "calls torch.set_grad_enabled",
    _function(torch.inference_mode.__enter__): "enters torch.inference_mode",
    _function(torch.autograd.forward_ad.dual_level.__enter__): "enters forward-mode AD",
    _function(torch.autocast.__enter__): "enters torch.autocast",
    _function(torch.autograd.graph.saved_tensors_hooks.__enter__): "enters saved_tensors_hooks",
    # checkpoint(), and all that torch keeps out of its own traces in the same way.
    checkpoint.checkpoint.__code__: "calls {fn.__module__}.{fn.__name__}",
    _function(checkpoint.checkpoint): "calls torch.utils.checkpoint",
    _function(TorchFunctionMode.__enter__): "enters a TorchFunctionMode",
    _function(_python_dispatch.TorchDispatchMode.__enter__): "enters a TorchDispatchMode",
    _function(_device.DeviceContext.__enter__): "enters a torch.device",
    _function(torch.random.fork_rng): "forks the random number generator",
    _function(_symbolic_trace.is_fx_tracing): "asks whether it is traced",
    _function(_symbolic_trace.is_fx_symbolic_tracing): "asks whether it is traced",
    _function(torch.manual_seed): "seeds the random number generator",
    _function(torch.set_default_dtype): "sets the default dtype",
    _function(torch.are_deterministic_algorithms_enabled): "reads a global setting of torch",
    _function(os._Environ.__getitem__): "reads os.environ, which the trace would freeze",
    _function(logging.Logger._log): "writes to a log, which the trace would not do again",
}
_FUNCTION = "calls an autograd.Function"
if hasattr(torch.autograd.Function.apply, "__func__"):  # else, as in torch 2.15, it is a builtin
    _PYTHON[_function(torch.autograd.Function.apply)] = _FUNCTION
_C = torch._C
_BUILTIN: dict[Any, str] = {
    _C._set_grad_enabled: "sets the grad mode",
    torch.set_autocast_enabled: "sets the autocast mode",
    _C._autograd._push_saved_tensors_default_hooks: "enters saved_tensors_hooks",
    **{
        f: f"reads torch.{f.__name__}(), which the trace would freeze"
        for f in (
            torch.is_grad_enabled,
            torch.is_inference_mode_enabled,
            torch.is_autocast_enabled,
            torch.is_autocast_cpu_enabled,
            torch.get_autocast_dtype,
            torch.get_default_dtype,
            torch.is_anomaly_enabled,
            torch.get_num_threads,
        )
    },
    **{
        getattr(time, name): f"reads time.{name}(), which the trace would freeze"
        for name in dir(time)
        if isinstance(getattr(time, name), BuiltinFunctionType)
    },
    **{
        getattr(builtins, name): f"calls {name}(), which the trace would not do again"
        for name in ("print", "open", "input")
    },
    os.urandom: "draws random numbers that the trace would freeze",
}
_BUILTIN_OF: dict[Any, str] = {
    random.Random: "draws random numbers that the trace would freeze",
    random.SystemRandom: "draws random numbers that the trace would freeze",
    torch.Generator: "uses a torch.Generator",
    type(torch.autograd.Function): _FUNCTION,
}
_CLOCKS = {(datetime.datetime, n) for n in ("now", "utcnow", "today")} | {(datetime.date, "today")}
_ISINSTANCE = frozenset({isinstance, _abc._abc_instancecheck})


@dataclass
class _Met:
    """What is known of a code object that a traced program has entered."""

    facts: CodeFacts
    lossy: str | None
    is_user: bool


class Watch:
    """Active inside `with watch:`; calls `lose(reason, frame)`, which ends the trace.

    `on_first(frame)` is called once for each function of user code, before it runs.
    `on_call(frame, facts)` before every call of one.
    """

    def __init__(
        self,
        lose: Lose,
        on_first: Callable[[FrameType], None],
        on_call: Callable[[FrameType, CodeFacts], None],
    ) -> None:
        self.in_isinstance = False
        self._lose, self._on_first, self._on_call = lose, on_first, on_call
        self._met: dict[int, _Met] = {
            id(c): _Met(CodeFacts(c), r, False) for c, r in _PYTHON.items()
        }

    def __enter__(self) -> None:
        # A collection would run callbacks and finalizers that are no part of the program.
        self._collects = gc.isenabled()
        gc.disable()
        self._outer = sys.getprofile()
        sys.setprofile(self._see)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._outer)
        self.in_isinstance = False
        if self._collects:
            gc.enable()

    def facts(self, code: CodeType) -> CodeFacts | None:
        """Facts about a function of user code that has been entered; None for any other."""
        met = self._met.get(id(code))
        return met.facts if met is not None and met.is_user else None

    def _see(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            self.in_isinstance = arg in _ISINSTANCE
            reason = _BUILTIN.get(arg)
            if reason is None:
                owner = arg.__self__
                reason = _BUILTIN_OF.get(type(owner))
                if reason is None and (type(owner) is not type or not _is_clock(owner, arg)):
                    return
                reason = reason or "reads the clock, which the trace would freeze"
            if _is_the_users(frame):
                self._lose(reason, frame)
        elif event == "c_return":
            self.in_isinstance = False
        elif event == "call":
            met = self._met.get(id(frame.f_code)) or self._meet(frame)
            if met.lossy is not None and _is_the_users(frame if met.is_user else frame.f_back):
                self._lose(self._in_words(met.lossy, frame.f_locals), frame)
            if met.is_user:
                self._on_call(frame, met.facts)

    def _in_words(self, lossy: str, variables: dict[str, Any]) -> str:
        """The reason; that of the function inside, where torch has wrapped one (`fn`)."""
        inner = getattr(inspect.unwrap(variables.get("fn", lossy)), "__code__", None)
        met = self._met.get(id(inner))
        known = met.lossy if met is not None else None
        return (known or lossy).format_map(variables)

    def _meet(self, frame: FrameType) -> _Met:
        code = frame.f_code
        is_user = is_user_code(code.co_filename)
        facts = CodeFacts(code)
        met = _Met(facts, facts.reason(frame.f_globals) if is_user else None, is_user)
        self._met[id(code)] = met  # Keeps the code alive, so that its id stays its own.
        if is_user:
            self._on_first(frame)
        return met


def _is_clock(owner: type, function: BuiltinFunctionType) -> bool:
    return (owner, function.__name__) in _CLOCKS


def _is_the_users(frame: FrameType | None) -> bool:
    """Whether the call that `frame` makes is part of the traced program.

    The tracing itself is not, nor are modules that happen to be imported for the first time.
    """
    if frame is None or _is_machinery(frame.f_code.co_filename):
        return False
    return not is_importing(frame)


def _is_machinery(filename: str) -> bool:
    return "/torch/fx/" in filename or "/fxpass/capture/" in filename
