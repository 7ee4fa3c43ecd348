"""The module that is scripted: the model's parameters and buffers under their names, bare.

A tensor or module that the model has under two names is there once, under the first: TorchScript
would make two of it in the file, with a gradient each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph

from fxpass.errors import ExportError

_ATTRIBUTES = (bool, int, float, str, type(None))


class Holder(nn.Module):
    """A container without a forward."""


def make_holder(model: nn.Module, graphs: Iterable[Graph], methods: Iterable[str]) -> Holder:
    """A module with what `model` holds and the graphs read; their targets are renamed to fit.

    Modules that a graph calls are there as they are, with their own forward.

    Raises:
        ExportError: a graph reads what TorchScript cannot hold, or the model has a member that is
            named as one of `methods`.

    """
    taken = {*model._parameters, *model._buffers, *model._modules}.intersection(methods)
    if taken:
        raise ExportError(
            f"fxpass.export_torchscript: the model's member {taken.pop()!r} is named as a method of"
            " the exported module; rename it"
        )
    return _Names(model).holder(list(graphs))


class _Names:
    """The first name of each tensor and module of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = {module: path for path, module in model.named_modules()}
        self.tensors: dict[int, str] = {}
        for named in (model.named_parameters(), model.named_buffers()):
            self.tensors.update({id(tensor): name for name, tensor in named})

    def holder(self, graphs: list[Graph]) -> Holder:
        called: set[str] = set()
        for node in (node for graph in graphs for node in graph.nodes):
            if node.op == "call_module":
                node.target = self.modules[self.model.get_submodule(node.target)]
                called.add(node.target)
        holder = Holder()
        for module, path in self.modules.items():  # in the order in which tensors are named
            if path in called:
                self._require_own_tensors(path, module)
                self._parent(holder, path)._modules[_last(path)] = module
            elif not any(path.startswith(f"{above}.") for above in called):
                self._add_tensors(holder, path, module)
        for node in (node for graph in graphs for node in graph.nodes):
            if node.op == "get_attr":
                node.target = self._add_attribute(holder, node.target)
        return holder

    def _add_tensors(self, holder: Holder, path: str, module: nn.Module) -> None:
        for members, kind in ((module._parameters, "_parameters"), (module._buffers, "_buffers")):
            for name, tensor in members.items():
                found = f"{path}.{name}" if path else name
                if tensor is not None and self.tensors[id(tensor)] == found:
                    getattr(self._parent(holder, found), kind)[name] = tensor

    def _require_own_tensors(self, path: str, module: nn.Module) -> None:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if self.tensors[id(tensor)] != f"{path}.{name}":
                raise ExportError(
                    f"fxpass.export_torchscript: {path} ({type(module).__name__}) shares its {name}"
                    f" with {self.tensors[id(tensor)]}, and TorchScript would make two of it"
                )

    def _add_attribute(self, holder: Holder, target: str) -> str:
        """Makes sure that the holder has what a get_attr node reads; returns its name there."""
        path, _, name = target.rpartition(".")
        module = self.model.get_submodule(path)
        value = {**module._parameters, **module._buffers}.get(name)
        if value is not None:
            return self.tensors[id(value)]
        value = module.__dict__.get(name, _MISSING)
        if not isinstance(value, (*_ATTRIBUTES, Tensor)):
            what = "is computed when it is read" if value is _MISSING else f"is a {type(value)}"
            raise ExportError(
                f"fxpass.export_torchscript: {target} {what}, and TorchScript cannot hold that; a"
                " parametrization is made plain by torch.nn.utils.parametrize."
                "remove_parametrizations"
            )
        path = self.modules[module]
        found = f"{path}.{name}" if path else name
        setattr(self._parent(holder, found), name, value)
        return found

    def _parent(self, holder: Holder, name: str) -> nn.Module:
        """The holder's module that has the member of this name, made if need be."""
        at: nn.Module = holder
        for part in name.split(".")[:-1]:
            found = at._modules.get(part)
            if found is None:
                found = at._modules[part] = Holder()
            at = found
        return at


_MISSING: Any = object()


def _last(name: str) -> str:
    return name.rpartition(".")[2]
