"""`Tracer`: torch.fx's symbolic tracer, with nothing lost in silence."""

from __future__ import annotations

import enum
import inspect
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TracerBase

from fxpass.capture.bytecode import CodeFacts, compares_next_with_none
from fxpass.capture.functions import leaf_functions, modules_with
from fxpass.capture.guards import Guards
from fxpass.capture.kinds import Kind, kind_of_function, kind_of_method, kind_of_module
from fxpass.capture.losses import Stop, location_of_frame
from fxpass.capture.modules import (
    has_global_hooks,
    has_hooks,
    is_leaf,
    is_overridden,
    is_wrapper,
)
from fxpass.capture.pattern import ArgPattern
from fxpass.capture.snapshot import Snapshot
from fxpass.capture.untraced import NoUntracedTensors, recording_assignments, without_modes
from fxpass.capture.values import Value
from fxpass.capture.watch import Watch

_EXACT_CONTAINERS = frozenset({tuple, list, dict})


class Tracer(fx.Tracer):
    """Traces one module once, for one pattern of arguments.

    Afterwards `leaves` and `boundaries` hold the called modules by path, `lost` the first loss
    (module, reason, location), and `globals_read` the plain global variables that were read.
    """

    proxy_buffer_attributes = True

    def __init__(
        self, pattern: ArgPattern, boundaries: Collection[nn.Module], snapshot: Snapshot
    ) -> None:
        functions = leaf_functions()
        super().__init__(autowrap_functions=tuple(functions))
        self._autowrap_search += modules_with(functions)
        self.pattern = pattern
        self.kinds: dict[fx.Node, Kind] = {}
        self.leaves: dict[str, nn.Module] = {}
        self.boundaries: dict[str, nn.Module] = {}
        self.calls: Counter[nn.Module] = Counter()
        self.fetches: Counter[nn.Module] = Counter()
        self.globals_read: dict[tuple[int, str], tuple[dict[str, Any], Any]] = {}
        self.lost: tuple[nn.Module, str, str] | None = None
        self.failed: nn.Module | None = None
        self.watch = Watch(self.lose, self._meet, self._enter)
        self._cut = set(boundaries)
        self._snapshot = snapshot
        self._global_hooks = has_global_hooks()
        self.thread = threading.get_ident()
        self._stack: list[nn.Module] = []
        self._inlined: set[nn.Module] = set()
        self._cached: dict[str, Value] = {}
        self._knows_all = True

    def trace(self, root: nn.Module, concrete_args: None = None) -> fx.Graph:  # type: ignore[override]
        """The graph of `root`'s forward; its placeholders are in the pattern's order."""
        self._stack.append(root)
        self.tensor_names: dict[int, str] = {}
        for named in (root.named_parameters(), root.named_buffers()):
            self.tensor_names.update({id(tensor): name for name, tensor in named})
        return super().trace(root)

    def lose(self, reason: str, frame: FrameType | None) -> NoReturn:
        """Notes the first loss and ends the trace."""
        if self.lost is None:
            self.lost = (self._stack[-1], reason, location_of_frame(frame))
        raise Stop(reason)

    # What fx asks a tracer.

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[[], Any], list[Any]]:
        """The call that makes the trace, with placeholders for the pattern's tensors."""
        names = list(inspect.signature(root_fn).parameters)[1:]
        args, kwargs = self.pattern.inflate(self._placeholder, names)
        before = ArgPattern.of(*self._as_shape(args, kwargs))

        def forward() -> Any:
            with recording_assignments(self), without_modes(), NoUntracedTensors(self), self.watch:
                result = root_fn(self.root, *args, **kwargs)
            if ArgPattern.of(*self._as_shape(args, kwargs)) != before:
                self._blame(self._stack[0], "changes a list or dict that it was given")
            return result

        return forward, []

    def proxy(self, node: fx.Node) -> Value:
        """The object that stands for a node's value in the traced program."""
        return Value(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any
    ) -> Any:
        """Records one operation, and what is known of its result."""
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node = proxy.node
        self.kinds[node] = found = self._kind_of(node)
        if found is None:
            self._knows_all = False
            self._guard_against_none(inspect.currentframe())
        return proxy

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Adds a node to the graph."""
        node = super().create_node(*args, **kwargs)
        self.kinds.setdefault(node, object)
        return node

    def create_arg(self, a: Any) -> Any:
        """An argument as it is written into the graph, or a loss if it cannot be."""
        if isinstance(a, fx.Proxy):
            return a.node
        kind = type(a)
        if kind in _EXACT_CONTAINERS or kind is slice:
            return TracerBase.create_arg(self, a)
        if isinstance(a, Tensor):
            return self._tensor(a).node
        if isinstance(a, nn.Module):
            self.fetches[a] += 2  # Whoever gets it can read all of it.
            return self.create_node("get_attr", self._path(a), (), {})
        if kind is OrderedDict:
            pairs = [(k, self.create_arg(v)) for k, v in a.items()]
            return self.create_node("call_function", OrderedDict, (pairs,), {})
        if isinstance(a, tuple) and hasattr(a, "_fields"):
            return self.create_node("call_function", kind, tuple(map(self.create_arg, a)), {})
        if is_dataclass(a) and not isinstance(a, type):
            if hasattr(a, "__post_init__") or not all(f.init for f in fields(a)):
                self.lose(f"makes a {kind.__name__}", inspect.currentframe())
            members = {f.name: self.create_arg(getattr(a, f.name)) for f in fields(a)}
            return self.create_node("call_function", kind, (), members)
        if isinstance(a, float) and kind.__module__ == "numpy":
            return float(a)  # numpy.float64, which is a float by another name.
        if isinstance(a, (dict, list, enum.Enum)) or _is_odd(a):
            self.lose(f"passes on a {kind.__name__}", inspect.currentframe())
        return TracerBase.create_arg(self, a)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """What reading a parameter, buffer or submodule of a module gives."""
        if threading.get_ident() != self.thread:
            return attr_val
        if isinstance(attr_val, nn.Module):
            if not compares_next_with_none(sys._getframe(2)):
                self.fetches[attr_val] += 1
        elif isinstance(attr_val, Tensor) and type(attr_val) is not Value:
            return self._tensor(attr_val)
        return attr_val

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A call of a submodule: a node, or the trace of its own forward."""
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        self.calls[m] += 1
        path = self._path(m)
        leaf = is_leaf(m)
        if m in self._cut or is_wrapper(m) or (not leaf and (self.hooked(m) or is_overridden(m))):
            self.boundaries[path] = m
        elif leaf:
            self.leaves[path] = m
        else:
            return self._inline(m, path, forward, args, kwargs)
        return self.create_proxy("call_module", path, args, kwargs)

    # How it is done.

    def path_below_root(self, m: nn.Module) -> str:
        """The qualified name of a module; '' for the root and for what is not below it."""
        return next((path for path, found in self.root.named_modules() if found is m), "")

    def hooked(self, m: nn.Module) -> bool:
        """Whether hooks run when `m` is called."""
        return self._global_hooks or has_hooks(m)

    def guards(self) -> Guards:
        """What this trace depends on."""
        read = {m for m, count in self.fetches.items() if count > self.calls[m]} | self._inlined
        names = [(variables, name, v) for (_, name), (variables, v) in self.globals_read.items()]
        return Guards(self.root, self.leaves, self.boundaries, read, names)

    def _inline(
        self, m: nn.Module, path: str, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        self._stack.append(m)
        self._inlined.add(m)
        depth = str(len(self._stack))
        self.module_stack[depth] = path, type(m)  # fx notes it with each node
        try:
            return forward(*args, **kwargs)
        except BaseException:
            self.failed = self.failed or m
            raise
        finally:
            self._stack.pop()
            del self.module_stack[depth]

    def _path(self, m: nn.Module) -> str:
        path = (self.submodule_paths or {}).get(m)
        if path is None:
            self.lose(
                f"uses a {type(m).__name__} that is not among its submodules",
                inspect.currentframe(),
            )
        return path

    def _tensor(self, tensor: Tensor) -> Value:
        name = self.tensor_names.get(id(tensor)) or self.tensor_attrs.get(tensor)
        if name is None:
            self.lose(
                "uses a tensor that is made in forward or held outside of the modules, which the"
                " trace would freeze",
                inspect.currentframe(),
            )
        if name not in self._cached:
            self._cached[name] = self.create_proxy("get_attr", name, (), {})
        return self._cached[name]

    def _placeholder(self, name: str) -> Value:
        proxy = self.create_proxy("placeholder", name, (), {})
        # The parameter's name in the generated code, made unlike all other names there.
        proxy.node.target = proxy.node.name
        return proxy

    def _kind_of(self, node: fx.Node) -> Kind:
        if node.op == "call_module":
            assert isinstance(node.target, str)
            leaf = self.leaves.get(node.target)
            return kind_of_module(leaf) if leaf is not None else None
        if node.op == "call_function":
            assert callable(node.target)
            return kind_of_function(
                node.target, node.args, node.kwargs, self._kind_of_arg, self._module_of
            )
        if node.op == "call_method":
            return kind_of_method(str(node.target), node.args, self._kind_of_arg)
        return torch.Tensor

    def _kind_of_arg(self, value: Any) -> Kind:
        return self.kinds[value] if isinstance(value, fx.Node) else type(value)

    def _module_of(self, node: fx.Node) -> nn.Module | None:
        return self.leaves.get(str(node.target)) if node.op == "call_module" else None

    def _meet(self, frame: FrameType) -> None:
        """Notes the outer variables of a function of user code, when it is first entered."""
        code, variables = frame.f_code, frame.f_globals
        for name in code.co_names:
            if name in variables:
                value = variables[name]
                if type(value) in (bool, int, float, str, type(None)):
                    self.globals_read[id(variables), name] = (variables, value)
                elif type(value) in (list, dict, set):
                    self._snapshot.add_global(self._stack[-1], name, value)
        for name in code.co_freevars:
            self._snapshot.add_global(self._stack[-1], name, frame.f_locals.get(name))

    def _enter(self, frame: FrameType, facts: CodeFacts) -> None:
        """Stops a function that compares an argument with None when nobody knows whether it is."""
        if not self._knows_all and facts.asks_for_none:
            given = [v for v in frame.f_locals.values() if isinstance(v, Value)]
            if any(v.may_be_none for v in given):
                self.lose("compares a value with None that is known only at run time", frame)

    def _guard_against_none(self, frame: FrameType | None) -> None:
        """Stops the functions around `frame` that may ask whether the value just made is None."""
        modules = list(self._stack)
        while frame is not None and modules:
            facts = self.watch.facts(frame.f_code)
            if facts is not None and facts.asks_for_none:
                self._blame(
                    modules[-1], "may compare with None what is known only at run time", frame
                )
            if frame.f_code is Tracer._inline.__code__:
                modules.pop()
            frame = frame.f_back

    def _blame(self, module: nn.Module, reason: str, frame: FrameType | None = None) -> NoReturn:
        self.lost = self.lost or (module, reason, location_of_frame(frame))
        raise Stop(reason)

    @staticmethod
    def _as_shape(args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The call with an empty tensor in place of every value, to compare structures."""
        empty = torch.empty(0)

        def replace(value: Any) -> Any:
            if isinstance(value, fx.Proxy):
                return empty
            if isinstance(value, dict):
                return type(value)((k, replace(v)) for k, v in value.items())
            if isinstance(value, tuple) and hasattr(value, "_fields"):
                return type(value)(*map(replace, value))
            if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
                return type(value)(map(replace, value))
            return value

        return replace(args), replace(kwargs)


def _is_odd(a: Any) -> bool:
    """Whether generated code cannot spell `a`: a number or string of a subclass."""
    return isinstance(a, (int, float, str)) and type(a) not in (bool, int, float, str)
