"""One graph of a whole model: what `compile` runs as several programs, put into one another.

A module that is called as a unit of its own (a compiled submodule, a part in which tracing met
something), and a leaf that no rewrite took, are traced for the call that is made of them and
written out in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils._python_dispatch import _disable_current_modes

from fxpass.capture import (
    ArgPattern,
    Capture,
    OwnForward,
    UnsupportedArgument,
    capture_unit,
    has_hooks,
)
from fxpass.errors import ExportError
from fxpass.runtime.module import CompiledModule
from fxpass.runtime.unit import IsCompiled

Lower = Callable[[nn.Module, Capture], None]
"""Rewrites the graph captured of a module, or leaves it as it is."""


def whole_graph(model: nn.Module, pattern: ArgPattern, lower: Lower) -> Graph:
    """The graph of `model`, in the mode that it is in, for calls of this form.

    Its targets are paths from `model`. Calls of leaves that cannot be traced (an LSTM, say) stay.

    Raises:
        ExportError: a part of the model has no graph, or has hooks.

    """
    if has_hooks(model):
        raise _python_only(model, "the model", "hooks")
    captured = _captured(model, pattern)
    if isinstance(captured, OwnForward):
        raise _no_graph(captured)
    lower(model, captured)
    for node in list(captured.graph.nodes):
        if node.op == "call_module":
            _write_out(captured, node, lower)
    captured.graph.lint()
    return captured.graph


def _captured(module: nn.Module, pattern: ArgPattern) -> Capture | OwnForward:
    compiled = [m for m in module.modules() if isinstance(m, IsCompiled)]
    with _disable_current_modes():
        captured = capture_unit(module, pattern, compiled)
    if isinstance(captured, OwnForward):
        return captured
    for path in (*captured.hooked, *captured.overridden):
        what = "hooks" if path in captured.hooked else "a forward replaced on the instance"
        raise _python_only(module.get_submodule(path), path, what)
    return captured


def _no_graph(part: OwnForward) -> ExportError:
    reason = part.losses[-1] if part.losses else f"{type(part.module).__name__} has no graph"
    return ExportError(
        "fxpass.export_torchscript: expected a model that torch.fx can trace, got one with a part"
        f" that runs its own Python forward: {reason}; write that part without what is named, or"
        " export the parts around it"
    )


def _python_only(module: nn.Module, path: str, what: str) -> ExportError:
    return ExportError(
        f"fxpass.export_torchscript: {path} ({type(module).__name__}) has {what}, which is Python"
        " and cannot be exported; remove it before (torch.nn.utils.prune.remove, handle.remove())"
    )


def _write_out(captured: Capture, call: Node, lower: Lower) -> None:
    """Puts the graph of the module called in the place of the call."""
    path = str(call.target)
    module = captured.root.get_submodule(path)
    if path in captured.boundaries and has_hooks(module):
        raise _python_only(module, path, "hooks")
    if isinstance(module, CompiledModule):
        module = module.original
    pattern, values = _pattern_of(call)
    child = _captured(module, pattern)
    if isinstance(child, OwnForward):
        if path in captured.boundaries:
            raise _no_graph(child)
        return  # TorchScript may know what to do with a module of torch's
    if path in captured.boundaries:
        lower(module, child)
    for node in list(child.graph.nodes):
        if node.op == "call_module" and path in captured.boundaries:
            _write_out(child, node, lower)
    result = _copy(child.graph, captured.graph, call, values, path)
    for user in list(call.users):
        user.args = with_value(user.args, call, result)
        user.kwargs = with_value(user.kwargs, call, result)
    captured.graph.erase_node(call)


def _pattern_of(call: Node) -> tuple[ArgPattern, list[Node]]:
    """The form of a call in a graph, its values taken for tensors."""
    stand_ins: dict[int, Node] = {}

    def stand_in(argument: Any) -> Any:
        if isinstance(argument, Node):
            tensor = torch.empty(0)
            kept.append(tensor)
            stand_ins[id(tensor)] = argument
            return tensor
        if isinstance(argument, (tuple, list)):  # torch.fx has list and dict classes of its own
            items = [stand_in(item) for item in argument]
            return items if isinstance(argument, list) else tuple(items)
        if isinstance(argument, dict):
            return {name: stand_in(item) for name, item in argument.items()}
        return argument

    kept: list[Tensor] = []  # so that no two have one id
    try:
        pattern, values = ArgPattern.split(stand_in(call.args), stand_in(call.kwargs))
    except UnsupportedArgument as error:
        raise ExportError(f"fxpass.export_torchscript: {call.format_node()}: {error}") from error
    return pattern, [stand_ins[id(value)] for value in values]


def _copy(source: Graph, target: Graph, call: Node, values: list[Node], path: str) -> Any:
    """Copies `source` in front of `call`; returns what it gives out."""
    copies: dict[Node, Any] = {}
    inputs = iter(values)
    result = None
    with target.inserting_before(call):
        for node in source.nodes:
            if node.op == "placeholder":
                copies[node] = next(inputs)
            elif node.op == "output":
                result = map_arg(node.args[0], copies.__getitem__)
            else:
                copies[node] = copy = target.node_copy(node, copies.__getitem__)
                if node.op in ("get_attr", "call_module"):
                    copy.target = f"{path}.{node.target}"
    return result


def with_value(arguments: Any, old: Node, new: Any) -> Any:
    """The arguments of a node with `new`, of any form, in the place of `old`."""
    return map_arg(arguments, lambda node: new if node is old else node)
