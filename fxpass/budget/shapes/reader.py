"""Reads a graph, as captured or rewritten, as calls with shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Interpreter, Node
from torch.utils import _pytree as pytree

from fxpass.budget.shapes.called import Called
from fxpass.budget.survey import is_ours
from fxpass.edges import as_call, origins_of
from fxpass.errors import FxpassError

_LAYERS = ("input", "weight", "bias")
_OUR_ROLES = {"conv2d": _LAYERS, "linear": _LAYERS, "batch_norm": _LAYERS}
_OUR_OPTIONS = {
    "conv2d": {"stride": 4, "padding": 5, "dilation": 6, "groups": 7},
    "batch_norm": {"training": 7, "activation": 11},
    "max_pool2d": {"kernel_size": 1},
    "relu_max_pool2d": {"kernel_size": 1},
}
"""Of fxpass' operators: their options, by the places of the arguments."""

_OPTIONS = ("stride", "padding", "dilation", "groups")


class Reader:
    """The values of a graph, and its calls.

    Args:
        module: whose graph it is.
        graph: as captured.
        inputs: the tensors that it is called with. Real ones are computed with, fake ones not.

    """

    def __init__(self, module: nn.Module, graph: Graph, inputs: Iterable[Any]) -> None:
        self._module = module
        shapes = _Shapes(module, graph)
        with torch.no_grad():
            shapes.run(*inputs, enable_io_processing=False)
        self.values: dict[str, Any] = shapes.values
        self._grows: set[str] = set()
        for node in graph.nodes:
            if self._needs_gradient(node):
                self._grows.add(node.name)

    def _needs_gradient(self, node: Node) -> bool:
        if node.op in ("placeholder", "get_attr"):
            value = self.value_of(node)
            return isinstance(value, Tensor) and value.requires_grad
        if node.op == "call_module":
            module = self._module.get_submodule(str(node.target))
            if any(p.requires_grad for p in module.parameters()):
                return True
        return any(n.name in self._grows for n in node.all_input_nodes)

    def value_of(self, node: Node) -> Any:
        """The value of a node of the captured graph, or of one rewritten from it."""
        if node.op == "get_attr":
            value: Any = self._module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value
        name = node.name if node.op == "placeholder" else origins_of(node)[-1].name
        return self.values[name]

    def is_relu(self, node: Node) -> bool:
        """Whether the value of a node of the captured graph is that of a ReLU."""
        call = as_call(node, self._module)
        return call is not None and call.op.name == "relu"

    def call(self, node: Node) -> Called:
        """The call that a node makes; raises FxpassError if its op is unknown."""
        return self._our_call(node) if is_ours(node) else self._eager_call(node)

    def _eager_call(self, node: Node) -> Called:
        call = as_call(node, self._module)
        if call is None:
            what = node.target
            if node.op == "call_module":
                what = type(self._module.get_submodule(str(node.target))).__name__
            raise FxpassError(
                f"fxpass: what {what} ({node.name}) allocates is not known from shapes; give a "
                "memory budget with real inputs, for which each op is measured"
            )
        module = call.module
        roles, tensors, needs = self._inputs(node)
        options = dict(call.arguments)
        name = call.op.name
        if module is not None:
            parameters = list(module.named_parameters())
            roles = [role for role, _ in parameters] + roles
            tensors = [tensor for _, tensor in parameters] + tensors
            needs = [tensor.requires_grad for _, tensor in parameters] + needs
            options["training"] = module.training
            if name == "dropout" and type(module) is not nn.Dropout:
                name = type(module).__name__  # whole channels have one number of noise
        else:
            options.setdefault("training", node.kwargs.get("training", True))
        for option in set(_OPTIONS) & options.keys() if name == "conv2d" else ():
            options[option] = _pair(node, option, options[option])
        result = self.value_of(node)
        return self._called(name, roles, tensors, needs, result, options)

    def _our_call(self, node: Node) -> Called:
        name = getattr(node.target, "__name__", "")
        roles, tensors, needs = self._inputs(node)
        known = _OUR_ROLES.get(name)
        if known is not None:
            roles = [*known, *[""] * len(tensors)][: len(tensors)]
            # Statistics and the count of batches stand behind.
            needs = [n and bool(role) for n, role in zip(needs, roles, strict=True)]
        places = _OUR_OPTIONS.get(name, {}).items()
        options = {o: node.args[i] if i < len(node.args) else None for o, i in places}
        result = self.value_of(node)
        alias = 0 if name.endswith("_") else None
        return Called(name, tuple(roles), tuple(tensors), tuple(needs), result, options, alias)

    def _inputs(self, node: Node) -> tuple[list[str], list[Tensor], list[bool]]:
        """The tensors among the arguments, handles left out."""
        tensors, needs = [], []
        for leaf in pytree.tree_leaves((node.args, node.kwargs)):
            if not isinstance(leaf, Node) or _is_handle(leaf):
                continue
            value = self.value_of(leaf)
            if isinstance(value, Tensor):
                tensors.append(value)
                is_parameter = leaf.op == "get_attr" and value.requires_grad
                name = leaf.name if leaf.op == "placeholder" else origins_of(leaf)[-1].name
                needs.append(is_parameter or name in self._grows)
        return ["input"] * len(tensors), tensors, needs

    def _called(
        self,
        name: str,
        roles: list[str],
        tensors: list[Tensor],
        needs: list[bool],
        result: Any,
        options: dict[str, Any],
    ) -> Called:
        if not isinstance(result, Tensor):
            raise FxpassError(f"fxpass: {name} with several results is not known from shapes")
        own = result.untyped_storage()._cdata
        places = [i for i, t in enumerate(tensors) if t.untyped_storage()._cdata == own]
        alias = places[0] if places else None
        return Called(name, tuple(roles), tuple(tensors), tuple(needs), result, options, alias)


class _Shapes(Interpreter):
    """Runs a graph and keeps what it computes: shapes, if the inputs are fake."""

    def __init__(self, module: nn.Module, graph: Graph) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.values: dict[str, Any] = {}

    def run_node(self, n: Node) -> Any:
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


def _pair(node: Node, option: str, value: Any) -> Any:
    if isinstance(value, str):
        raise FxpassError(
            f"fxpass: expected {option} of {node.name} in numbers, got {value!r}: what that "
            "allocates is not known from shapes"
        )
    return value if option == "groups" or not isinstance(value, int) else (value, value)


_HANDLES = ("bitmap", "bind", "hold")


def _is_handle(node: Node) -> bool:
    if not node.op.startswith("call_"):
        return False
    name = getattr(node.target, "__name__", "")
    if name == "getitem" and isinstance(node.args[0], Node) and is_ours(node.args[0]):
        return bool(node.args[1] == 1)
    return is_ours(node) and (name in _HANDLES or name.startswith("rerun_"))
