"""One form for the three spellings of an op.

`self.relu(x)`, `F.relu(x)`, `torch.relu_(x)` and `x.relu()` become one `Call`: the row of the
table, and the arguments by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Node
from torch.fx.node import map_arg

from fxpass.edges.op import Op
from fxpass.edges.table import NO_ELEMENTS, OF_FUNCTION, OF_METHOD, OF_MODULE, OF_NAME

_TENSORS = frozenset({"input", "weight", "bias", "running_mean", "running_var"})
"""Parameters that take tensors; an op is known only if all others are constants."""


_VARIADIC = ("add", "add_", "mul")
"""Ops whose arguments are all inputs."""


@dataclass(frozen=True)
class Call:
    """A node of the graph as a call of a known op.

    Attributes:
        node: the node.
        op: its row in the table.
        arguments: by parameter name; defaults filled in. A module's parameters (weight, bias) are
            not among them: the graph reads them from the module.
        module: the module called, or None for a function or method.
        hooked: the module's hooks have to run around the op.

    """

    node: Node
    op: Op
    arguments: dict[str, Any]
    module: nn.Module | None = None
    hooked: bool = False

    @property
    def writes(self) -> bool:
        """Whether the op writes its result over its first input."""
        return self.op.writes_input or bool(self.arguments.get("inplace"))

    @property
    def reads_bits(self) -> bool:
        """Whether one bit an element of the input is all that backward reads."""
        return self.op.reads_bits and not (self.writes and self.op.inplace_saves_result)

    @property
    def reads_parameters_anew(self) -> bool:
        """Whether the parameters may be read a second time.

        One that is a property (a parametrisation) is computed whenever it is read, and computing it
        may change buffers.
        """
        module = self.module
        if module is None:
            return True
        members = (module._parameters, module._buffers, module.__dict__)
        names = (_TENSORS & self.op.parameters.keys()) - {"input"}
        return all(any(name in m for m in members) for name in names)

    @property
    def inputs(self) -> list[Node]:
        """The values whose elements the op reads."""
        value = self.arguments.get("input")
        if isinstance(value, Node):
            return [value]
        return [v for v in value if isinstance(v, Node)] if isinstance(value, Sequence) else []


def as_call(node: Node, root: nn.Module, hooked: frozenset[str] = frozenset()) -> Call | None:
    """The call that `node` makes, or None if the table has no row for it."""
    if node.op == "call_module":
        path = str(node.target)
        return _of_module(node, root.get_submodule(path), path in hooked)
    if node.op == "call_function" and callable(node.target):
        op = OF_FUNCTION.get(node.target) or OF_NAME.get(_qualified_name(node.target))
    elif node.op == "call_method":
        op = OF_METHOD.get(str(node.target))
    else:
        op = None
    if op is None or (node.target is getattr and node.args[1] not in NO_ELEMENTS):
        return None
    arguments = _bind(op, node.args, node.kwargs)
    if arguments is None:
        return None
    if "inplace" in op.parameters and _name_of(node).endswith("_"):
        arguments["inplace"] = True
    if _name_of(node).endswith("_with_indices"):
        arguments["return_indices"] = True
    return Call(node, op, arguments)


def _qualified_name(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"


def _name_of(node: Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def _of_module(node: Node, module: nn.Module, hooked: bool) -> Call | None:
    for base in type(module).__mro__:
        op = OF_MODULE.get(base)
        if op is not None:
            break
    else:
        return None
    if not computes_as(module, base) or node.kwargs or len(node.args) != 1:
        return None
    named = [item for item in op.parameters.items() if item[0] not in _TENSORS]
    arguments = {name: getattr(module, name, default) for name, default in named}
    arguments["input"] = node.args[0]
    return Call(node, op, arguments, module, hooked)


def computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether `module` runs the forward of `base`: neither class nor instance overrides it."""
    names = ("forward", "_conv_forward", "_check_input_dim")
    return not module.__dict__.keys() & set(names) and all(
        getattr(type(module), name, None) is getattr(base, name, None) for name in names
    )


def _bind(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments by name. Ops that take only `input` may have more, which nobody here reads."""
    names = list(op.parameters)
    if names == ["input"]:
        if (not args and not kwargs) or "out" in kwargs:
            return None
        first = args[0] if args else kwargs.get("input", kwargs.get("tensors"))
        return {"input": list(_values(args, kwargs)) if op.name in _VARIADIC else first}
    if "tensors" in kwargs:
        kwargs = {**kwargs, "input": kwargs["tensors"]}
        del kwargs["tensors"]
    if len(args) > len(names) or not kwargs.keys() <= set(names):
        return None
    given = {**op.parameters, **dict(zip(names, args, strict=False)), **kwargs}
    return given if all(n in _TENSORS or is_constant(v) for n, v in given.items()) else None


def is_constant(argument: Any) -> bool:
    """Whether an argument is known now, and not computed when the graph runs."""
    found: list[Node] = []
    map_arg(argument, found.append)
    return not found


def _values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    return [*args, *kwargs.values()]
