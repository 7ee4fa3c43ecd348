"""A graph in the Python that TorchScript understands."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.jit._builtins import _find_builtin

from fxpass.capture import expect_length, expect_true
from fxpass.export.whole import with_value

_RETURNS_ITS_FIRST = ("keep_input", "keep_result", "pack_noise")
"""Operators that change the autograd node of their first argument, and return that argument."""


def as_source_graph(graph: Graph) -> Graph:
    """A copy of `graph` that prints as TorchScript; the values are the same."""
    copy = Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in list(copy.nodes):
        if node.op == "placeholder":
            node.type = Tensor
        elif node.target is OrderedDict:
            _as_dict(node)
        elif node.target in (expect_length, expect_true):
            _check(node)
        elif node.op == "call_function":
            _write_floats(node)
            if _is_ours(node):
                node.args = _tuples(node.args)
                _read_result(node)
    return copy


def _is_ours(node: Node) -> bool:
    return getattr(node.target, "_qualified_op_name", "").startswith("fxpass::")


def _name(node: Node) -> str:
    target: Any = node.target
    return str(target.__name__)


def _tuples(value: Any) -> Any:
    """Lists as tuples, whose items may differ in type, be none, or be missing."""
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _write_floats(node: Node) -> None:
    """Writes 2 as 2.0 where a float is expected: Python's functions do not mind, TorchScript does.

    What differs between the overloads of a function is left as it is.
    """
    names, floats = _parameters(node.target)
    positional = zip_longest(node.args, names[: len(node.args)])
    node.args = tuple(_floats(value) if name in floats else value for value, name in positional)
    node.kwargs = {n: _floats(v) if n in floats else v for n, v in node.kwargs.items()}


def _floats(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_floats, value))
    return float(value) if type(value) is int else value


@functools.cache
def _parameters(function: Any) -> tuple[list[str], set[str]]:
    """The names of a function's parameters in their order, and of those that are floats."""
    builtin = getattr(function, "_qualified_op_name", None) or _find_builtin(function)
    if builtin is None:
        if not inspect.isfunction(function):
            return [], set()
        parameters = inspect.signature(function).parameters
        kinds = {name: [str(p.annotation)] for name, p in parameters.items()}
    else:
        kinds = {}
        for schema in torch._C._jit_get_schemas_for_operator(builtin):
            for argument in schema.arguments:
                kinds.setdefault(argument.name, []).append(str(argument.type))
    return list(kinds), {n for n, ks in kinds.items() if all("float" in k for k in ks)}


def _read_result(node: Node) -> None:
    """Lets what follows read the operator's result instead of its first argument.

    That is the same tensor, and a call of which nobody reads the result would be left out.
    """
    if _name(node) not in _RETURNS_ITS_FIRST:
        return
    value = node.args[0]
    assert isinstance(value, Node)
    value.replace_all_uses_with(node, delete_user_cb=lambda user: user > node)


def _as_dict(node: Node) -> None:
    pairs: Any = node.args[0]
    made = dict(pairs)
    for user in list(node.users):
        user.args = with_value(user.args, node, made)
    node.graph.erase_node(node)


def _check(node: Node) -> None:
    """Spells out a check of ours, which takes anything, for a language with types."""
    value, other = node.args
    of_length = node.target is expect_length
    with node.graph.inserting_before(node):
        known = node.graph.call_function(len if of_length else bool, (value,))
    node.target = _expect_count if of_length else _expect_true
    node.args = (known, other)


def _expect_count(count: int, expected: int) -> None:
    assert count == expected, "the number of values to unpack"


def _expect_true(value: bool, location: str) -> None:
    assert value, location
