"""What can be seen of lost information only in the code itself.

A proxy cannot answer `y is None`, `type(y)` or `hasattr(y, ...)`: Python asks the object's identity
or its type, and the object is not told what it is asked for. So the code is read.
"""

from __future__ import annotations

import bisect
import dis
import functools
from dataclasses import dataclass
from functools import cached_property
from types import CodeType, FrameType, ModuleType
from typing import Any

_NOT_A_VALUE = ("LOAD_ATTR", "LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME")


@dataclass(frozen=True)
class CodeFacts:
    """Facts about one function's code."""

    code: CodeType

    @cached_property
    def asks_for_none(self) -> bool:
        """Whether it compares a local value (not an attribute or a global) with None."""
        steps = _instructions(self.code)
        return any(
            operand is not None and operand.opname not in _NOT_A_VALUE
            for operand in (_tested_for_none(steps, i) for i in range(len(steps)))
        )

    def reason(self, module_globals: dict[str, Any]) -> str | None:
        """Why a trace through this code is never believed, or None."""
        names = self.code.co_names
        uses_numpy = any(_is_numpy(module_globals.get(n)) for n in names)
        if uses_numpy and "random" in names:
            return "draws from numpy's random numbers"
        steps = _instructions(self.code)
        for index, step in enumerate(steps):
            if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                return f"assigns the global variable '{step.argval}'"
            if step.opname in ("STORE_DEREF", "DELETE_DEREF") and self._is_outer(step.argval):
                return f"assigns '{step.argval}' of an enclosing function"
            if step.opname == "IS_OP" and not any(map(_is_fixed, steps[index - 2 : index])):
                return "asks whether two values are the same object"
            if (
                step.opname == "LOAD_GLOBAL"
                and step.argval == "type"
                and not self._is_self(steps[index + 1])
            ):
                return "asks for the type() of a value"
        return None

    def _is_outer(self, name: str) -> bool:
        return name in self.code.co_freevars

    def _is_self(self, step: dis.Instruction) -> bool:
        is_method = self.code.co_argcount > 0 and self.code.co_varnames[0] == "self"
        return is_method and step.opname == "LOAD_FAST" and step.argval == "self"


def is_plain_access(frame: FrameType) -> bool:
    """Whether `frame` now reads an attribute by a dot, neither by hasattr() nor by getattr()."""
    return _current(frame)[0].opname in ("LOAD_ATTR", "LOAD_METHOD")


def is_assertion(frame: FrameType) -> bool:
    """Whether `frame` now decides on the condition of an assert statement, as a whole."""
    step, index = _current(frame)
    following = _instructions(frame.f_code)[index + 1]
    return step.opname.endswith("_IF_TRUE") and following.opname == "LOAD_ASSERTION_ERROR"


def is_assertion_message(frame: FrameType) -> bool:
    """Whether `frame` now makes an f-string that is nothing but the message of torch._assert()."""
    steps, (_, index) = _instructions(frame.f_code), _current(frame)
    start = index
    while start and not steps[start - 1].opname.startswith(("POP_", "STORE_", "RESUME")):
        start -= 1
    callee = [step.argval for step in steps[start : start + 2]]  # torch._assert, or _assert
    names = [step.opname for step in steps[index:]]
    after = names[names.index("BUILD_STRING") + 1 :] if "BUILD_STRING" in names else []
    return "_assert" in callee and after[:3] == ["PRECALL", "CALL", "POP_TOP"]


def compares_next_with_none(frame: FrameType) -> bool:
    """Whether `frame` compares the value that it now makes with None."""
    steps, index = _instructions(frame.f_code), _current(frame)[1]
    return _tested_for_none(steps, index + 1) is not None or (
        _tested_for_none(steps, index + 2) is steps[index]
    )


def _current(frame: FrameType) -> tuple[dis.Instruction, int]:
    steps = _instructions(frame.f_code)
    index = bisect.bisect_left(steps, frame.f_lasti, key=lambda step: step.offset)
    return steps[index], index


@functools.lru_cache(maxsize=256)
def _instructions(code: CodeType) -> list[dis.Instruction]:
    return [s for s in dis.get_instructions(code) if s.opname not in ("EXTENDED_ARG", "NOP")]


def _tested_for_none(steps: list[dis.Instruction], index: int) -> dis.Instruction | None:
    """What made the value that the instruction at `index` compares with None, if it does so."""
    if index >= len(steps):
        return None
    step = steps[index]
    if step.opname.endswith(("_IF_NONE", "_IF_NOT_NONE")):
        return steps[index - 1]
    if step.opname == "IS_OP":
        for constant, operand in ((index - 1, index - 2), (index - 2, index - 1)):
            loads = steps[constant]
            if loads.opname == "LOAD_CONST" and loads.argval is None:
                return steps[operand]
    return None


def _is_fixed(step: dis.Instruction) -> bool:
    return step.opname in ("LOAD_CONST", *_NOT_A_VALUE)


def _is_numpy(value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__.split(".")[0] == "numpy"
