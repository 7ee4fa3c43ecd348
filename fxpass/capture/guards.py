"""`Guards`: what a trace took for granted, checked at every call in about a microsecond a module.

A trace bakes in whatever is not a tensor: `self.training`, `self.stride`, `self.act is None`, which
submodule is called. `holds()` says whether all of it is still so; if not, the module is traced
again. Hyperparameters that are read when an op runs (`drop.p`, `bn.momentum`) are no guards of a
leaf module, unless the traced code may have read them itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from fxpass.capture.modules import HOOK_DICTS, has_global_hooks

_POOL = ("kernel_size", "stride", "padding", "ceil_mode")
BAKED: dict[type[nn.Module], tuple[str, ...]] = {
    nn.modules.conv._ConvNd: ("stride", "padding", "dilation", "groups", "padding_mode"),
    nn.modules.conv._ConvTransposeNd: ("output_padding",),
    nn.modules.pooling._MaxPoolNd: (*_POOL, "dilation", "return_indices"),
    nn.AvgPool1d: (*_POOL, "count_include_pad"),
    nn.AvgPool2d: (*_POOL, "count_include_pad", "divisor_override"),
    nn.AvgPool3d: (*_POOL, "count_include_pad", "divisor_override"),
    nn.modules.pooling._AdaptiveAvgPoolNd: ("output_size",),
    nn.modules.pooling._AdaptiveMaxPoolNd: ("output_size", "return_indices"),
    nn.ReLU: ("inplace",),
    nn.Hardtanh: ("inplace", "min_val", "max_val"),
    nn.LeakyReLU: ("inplace", "negative_slope"),
    nn.ELU: ("inplace", "alpha"),
    nn.SiLU: ("inplace",),
    nn.Hardswish: ("inplace",),
    nn.Hardsigmoid: ("inplace",),
    nn.GELU: ("approximate",),
    nn.Softplus: ("beta", "threshold"),
    nn.Mish: ("inplace",),
    nn.CELU: ("inplace", "alpha"),
    nn.SELU: ("inplace",),
    nn.Threshold: ("inplace", "threshold", "value"),
    nn.Hardshrink: ("lambd",),
    nn.Softshrink: ("lambd",),
    nn.GLU: ("dim",),
    nn.Softmax: ("dim",),
    nn.LogSoftmax: ("dim",),
    nn.modules.dropout._DropoutNd: ("inplace",),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Unflatten: ("dim", "unflattened_size"),
    nn.modules.batchnorm._NormBase: ("training", "eps", "affine", "track_running_stats"),
    nn.GroupNorm: ("num_groups", "eps"),
    nn.LayerNorm: ("normalized_shape", "eps"),
    nn.modules.padding._ConstantPadNd: ("padding", "value"),
    nn.modules.padding._ReflectionPadNd: ("padding",),
    nn.modules.padding._ReplicationPadNd: ("padding",),
    nn.modules.padding._CircularPadNd: ("padding",),
}
"""The attributes of a leaf module that a rewrite may bake, by class; base classes count too."""

_PLAIN = (bool, int, float, str, type(None))
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__) - {"training"}
_MISSING = object()


class Guards:
    """The state that one trace of `root` depends on."""

    def __init__(
        self,
        root: nn.Module,
        leaves: Mapping[str, nn.Module],
        boundaries: Mapping[str, nn.Module],
        read: Iterable[nn.Module],
        globals_read: Iterable[tuple[dict[str, Any], str, Any]] = (),
    ) -> None:
        """`leaves` are the called ones, `read` the modules whose own attributes were read."""
        cut = {*leaves.values(), *boundaries.values()}
        structure = {root, *_above(root, cut)}
        read = {*read, *structure}
        modules = list(_reached(root, cut - structure))
        modules += [m for m in cut | read if m not in set(modules)]
        self.global_hooks = has_global_hooks()
        self._modules = modules
        self._classes = list(map(type, modules))
        self._dicts = [m.__dict__ for m in modules]
        self._overridden = self._overrides()
        hooks = [getattr(m, name) for m in modules if m is not root for name in HOOK_DICTS]
        self._hookless = [h for h in hooks if not h]
        self._hooked = [h for h in hooks if h]
        self._children: list[tuple[dict[str, Any], list[Any]]] = []
        self._attributes: list[tuple[itemgetter[Any], dict[str, Any], Any]] = []
        self._typed: list[tuple[itemgetter[Any], dict[str, Any], list[type], int]] = []
        self._tensors: list[tuple[dict[str, Any], str]] = []
        for module in modules:
            if module in read or module not in cut:
                self._guard_all(module)
            elif module in set(leaves.values()):
                self._guard(module, [n for n in _baked(module) if n in module.__dict__])
        self._slots = [
            (members, name) for m in modules for members in _tensor_dicts(m) for name in members
        ]
        self._empty = self._empty_slots()
        self._ties = _ties(root)
        self._class_values = [v for cls in set(self._classes) for v in _class_values(cls)]
        self._globals = list(globals_read)

    def holds(self) -> bool:
        """Whether a new trace would see the same as this one did."""
        if any(self._hookless) or not all(self._hooked) or has_global_hooks() != self.global_hooks:
            return False
        if list(map(type, self._modules)) != self._classes:
            return False
        try:
            return self._attributes_hold() and self._rest_holds()
        except (KeyError, ValueError, RuntimeError, TypeError):
            return False  # An attribute is gone, or cannot even be compared with what it was.

    def _attributes_hold(self) -> bool:
        for get, members, expected in self._attributes:
            if get(members) != expected:
                return False
        for get, members, types, count in self._typed:
            if list(map(type, get(members))) != types or len(members) != count:
                return False
        for members, children in self._children:
            if list(members["_modules"].items()) != children:
                return False
        return True

    def _rest_holds(self) -> bool:
        return (
            self._overrides() == self._overridden
            and self._empty_slots() == self._empty
            and all(isinstance(members.get(name), Tensor) for members, name in self._tensors)
            and all(a.get(m) is b.get(n) for a, m, b, n in self._ties)
            and all(v.get(name, _MISSING) == value for v, name, value in self._globals)
            and all(getattr(c, name, _MISSING) == value for c, name, value in self._class_values)
        )

    def _overrides(self) -> list[int]:
        return [
            i
            for i, members in enumerate(self._dicts)
            if "forward" in members or "_compiled_call_impl" in members
        ]

    def _empty_slots(self) -> list[bool]:
        return [members[name] is None for members, name in self._slots]

    def _guard_all(self, module: nn.Module) -> None:
        members = module.__dict__
        names = [n for n in members if n not in _OF_EVERY_MODULE]
        self._tensors += [(members, n) for n in names if isinstance(members[n], Tensor)]
        names = [n for n in names if not isinstance(members[n], Tensor)]
        get = self._guard(module, names)
        self._typed.append((get, members, list(map(type, get(members))), len(members)))
        self._children.append((members, list(members["_modules"].items())))

    def _guard(self, module: nn.Module, names: list[str]) -> itemgetter[Any]:
        # Two names at least, so that the getter always gives a tuple.
        get = itemgetter(*names, *["_modules"] * (2 - len(names)))
        members = module.__dict__
        if names:
            self._attributes.append((get, members, tuple(map(_frozen, get(members)))))
        return get


def _reached(module: nn.Module, cut: set[nn.Module], seen: set[Any] | None = None) -> Iterator[Any]:
    """The modules of a tree, without what lies below those in `cut`."""
    seen = set() if seen is None else seen
    if module in seen:
        return
    seen.add(module)
    yield module
    if module not in cut:
        for child in module._modules.values():
            if child is not None:
                yield from _reached(child, cut, seen)


def _above(root: nn.Module, modules: set[nn.Module]) -> set[nn.Module]:
    """The modules on the way from `root` to any of `modules`."""
    paths = [
        path.split(".") for path, m in root.named_modules(remove_duplicate=False) if m in modules
    ]
    return {root.get_submodule(".".join(path[:i])) for path in paths for i in range(len(path))}


def _baked(module: nn.Module) -> list[str]:
    return [name for cls in type(module).__mro__ for name in BAKED.get(cls, ())]


def _frozen(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(map(_frozen, value))
    if type(value) is dict:
        return {name: _frozen(v) for name, v in value.items()}
    return set(value) if type(value) is set else value


def _tensor_dicts(module: nn.Module) -> tuple[dict[str, Any], ...]:
    if isinstance(module, torch.jit.ScriptModule):
        return ()  # It holds no dicts, and nothing of it is read by a trace.
    return module._parameters, module._buffers


def _ties(root: nn.Module) -> list[tuple[dict[str, Any], str, dict[str, Any], str]]:
    """The places that hold one tensor together: a trace reads it at one of them only."""
    first: dict[int, tuple[dict[str, Any], str]] = {}
    ties = []
    for module in root.modules():
        for members in _tensor_dicts(module):
            for name, tensor in members.items():
                if tensor is not None:
                    if id(tensor) in first:
                        ties.append((*first[id(tensor)], members, name))
                    first.setdefault(id(tensor), (members, name))
    return ties


def _class_values(cls: type) -> Iterator[tuple[type, str, Any]]:
    for base in cls.__mro__:
        if not base.__module__.startswith(("torch.", "builtins")):
            for name, value in base.__dict__.items():
                if type(value) in _PLAIN and not name.startswith("__"):
                    yield cls, name, getattr(cls, name)
