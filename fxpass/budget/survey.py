"""One run of a model, op by op: the bytes of its values, and what each op costs."""

from __future__ import annotations

import gc
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Interpreter, Node
from torch.utils import _pytree as pytree

from fxpass._oracle import integers
from fxpass.budget.conv_phases import conv_phases
from fxpass.budget.probe import Cost, Probe, RestoreCost, fastest
from fxpass.edges import origins_of

_MOST_PASSES = 6

OURS = "fxpass::"
"""The beginning of the names of fxpass' own operators."""

Measured = tuple[Cost, RestoreCost | None]

Key = tuple[str, tuple[str, ...]]
"""An operator, and the values of the captured graph that a call of it computes."""


@dataclass
class Survey:
    """What was measured.

    Attributes:
        n_bytes: of the value of each node of the captured graph, by name.
        packed_bytes: of its non-zero elements and their bits, if it has the zeros of a ReLU.
        pieces: how many tensors a value is, if it is a tuple of some.
        gradient_strides: of the gradient of a value, if they are not those of the value.
        costs: of each call.
        restores: of each handle that an operator returns beside its value.
        updates: of each parameter that is updated inside backward: the bytes that this takes for a
            while.
        known: the same by what the calls look like; of two alike one is measured.

    """

    n_bytes: dict[str, int] = field(default_factory=dict)
    packed_bytes: dict[str, int] = field(default_factory=dict)
    pieces: dict[str, int] = field(default_factory=dict)
    gradient_strides: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    costs: dict[Key, Cost] = field(default_factory=dict)
    restores: dict[Key, RestoreCost] = field(default_factory=dict)
    updates: dict[Tensor, int] = field(default_factory=dict)
    known: dict[Any, Measured] = field(default_factory=dict)

    def costs_by_value(self) -> dict[str, Cost]:
        """Of the op that makes each value, by the name of its node.

        Our operators come first, of which one may make several values; eager's, where there are
        none.
        """
        found: dict[str, Cost] = {}
        covered: set[str] = set()
        for ours in (True, False):
            for (target, origins), cost in self.costs.items():
                if target.startswith(OURS) == ours and covered.isdisjoint(origins):
                    found[origins[-1]] = cost
                    covered.update(origins)
        return found

    def seconds_by_value(self) -> dict[str, float]:
        """What making each value again takes, by the name of its node."""
        found = {key[1][-1]: cost.seconds for key, cost in self.costs.items()}
        return found | {key[1][-1]: cost.seconds for key, cost in self.restores.items()}


def key_of(node: Node) -> Key:
    """The key of a call in a rewritten graph."""
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
    if is_ours(node):
        target = f"{OURS}{target}"  # eager's function may have the same name
    return target, tuple(origin.name for origin in origins_of(node))


def survey(module: nn.Module, graph: Graph, inputs: tuple[Any, ...], found: Survey) -> None:
    """Runs the rewritten `graph` of `module` and notes what it finds.

    How the gradients lie in memory shows only once the calls behind have been measured: until no
    call gets one of another form than it was measured with, the graph is run again.
    """
    for _ in range(_MOST_PASSES):
        known = len(found.known)
        _run(_Surveyor(module, graph, found), inputs)
        if len(found.known) == known:
            break


def time_again(module: nn.Module, graph: Graph, inputs: tuple[Any, ...], found: Survey) -> None:
    """Measures once more each call of a graph that has been measured; the least times count.

    The speed of a machine that others use too changes from second to second. Two graphs whose
    times are to be compared are measured in turns.
    """
    _run(_Again(module, graph, found), inputs)


def _run(surveyor: _Surveyor, inputs: tuple[Any, ...]) -> None:
    with torch.no_grad(), no_collection():
        surveyor.run(*inputs, enable_io_processing=False)


@contextmanager
def no_collection() -> Iterator[None]:
    """Nothing that was left in cycles before is freed while bytes are counted."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Surveyor(Interpreter):
    def __init__(self, module: nn.Module, graph: Graph, found: Survey) -> None:
        super().__init__(module, garbage_collect_values=True, graph=graph)
        self.found = found
        self._probe = Probe()
        self._grows: dict[Node, bool] = {}

    def run_node(self, n: Node) -> Any:
        grows = self._needs_gradient(n)
        if is_measured(n):
            self._measure(n, *self.fetch_args_kwargs_from_env(n))
        value = super().run_node(n)
        if n.op == "placeholder":
            grows = isinstance(value, Tensor) and value.requires_grad
        self._grows[n] = grows and _floats(value)
        tensor = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, (tuple, list)) and not gives_handle(n):
            self.found.pieces[key_of(n)[1][-1]] = sum(isinstance(v, Tensor) for v in value)
        if isinstance(tensor, Tensor):
            name = origins_of(n)[-1].name if n.op != "placeholder" else n.name
            self.found.n_bytes[name] = tensor.untyped_storage().nbytes()
            if tensor.is_floating_point() and n.op != "get_attr":
                marked = int(torch.count_nonzero(integers(tensor.detach())))
                words = -(-tensor.numel() // 64)
                self.found.packed_bytes[name] = marked * tensor.element_size() + 8 * words
        return value

    def _needs_gradient(self, n: Node) -> bool:
        if n.op == "get_attr":
            value = self.fetch_attr(str(n.target))
            return isinstance(value, Tensor) and value.requires_grad
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            if any(p.requires_grad for p in module.parameters()):
                return True
        return any(self._grows.get(m, False) for m in n.all_input_nodes)

    def _measure(self, n: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        function: Any = n.target
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            function, args = _functional(module), (dict(module.named_parameters()), *args)
        elif n.op == "call_method":
            name = str(n.target)
            function = lambda x, *rest, **options: getattr(x, name)(*rest, **options)  # noqa: E731
        args, kwargs = pytree.tree_map(_no_handle, (args, kwargs))
        needs = self._needs_of(n, args, kwargs)
        upstream = self.found.gradient_strides.get(key_of(n)[1][-1])
        # The repr does not say whether it trains, on which a batch norm and a dropout depend.
        what = n.target if n.op != "call_module" else f"{module!r} {module.training}"
        form = _form((what, args, kwargs, needs, str(upstream)))

        def measured() -> Measured:
            cost = self._probe.call(function, args, kwargs, needs, upstream)
            if is_ours(n):
                cost = conv_phases(n, args, cost, needs, upstream, self._probe)
            return cost, self._restore(n, args)

        cost, restore = self.found.known[form] = self._measured(form, measured)
        self.found.costs[key_of(n)] = cost
        if restore is not None:
            self.found.restores[key_of(n)] = restore
        self._note_gradients(n, (args, kwargs), cost)

    def _measured(self, form: Any, measure: Callable[[], Measured]) -> Measured:
        return self.found.known.get(form) or measure()

    def _note_gradients(self, n: Node, arguments: Any, cost: Cost) -> None:
        """Of each value read: the strides of the gradient that this call, so far the last, gives.

        The gradient that comes first in backward is the one that others are added to.
        """
        leaves = [t for t in pytree.tree_leaves(arguments) if isinstance(t, Tensor)]
        names = {
            self.env[m].data_ptr(): origins_of(m)[-1].name
            for m in n.all_input_nodes
            if m.op.startswith("call_") and isinstance(self.env[m], Tensor)
        }
        for place, gradient in cost.gradients.items():
            value = leaves[place]
            name = names.get(value.data_ptr())
            if name is not None:
                own = gradient.strides == value.stride()
                self.found.gradient_strides[name] = None if own else gradient.strides

    def _needs_of(self, n: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[bool]:
        """Of each tensor among the arguments: it is a parameter, or one of the values that do."""
        growing = {
            self.env[m].untyped_storage().data_ptr()
            for m in n.all_input_nodes
            if self._grows.get(m) and isinstance(self.env.get(m), Tensor)
        }
        leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        return [t.requires_grad or t.untyped_storage().data_ptr() in growing for t in leaves]

    def _restore(self, n: Node, args: tuple[Any, ...]) -> RestoreCost | None:
        """Of the affine handle of a batch norm, if it gives one: not if it keeps no input."""
        if not is_ours(n) or getattr(n.target, "__name__", "") != "batch_norm":
            return None
        own = [a.detach().clone() if isinstance(a, Tensor) else a for a in args]
        own[0].requires_grad_()
        with torch.enable_grad():
            result: Any = n.target(*own)  # type: ignore[operator]
        handle = result[1]
        return self._probe.restore(handle.restore) if handle.recipe() == "affine" else None


class _Again(_Surveyor):
    """Measures each call that is known once more."""

    def __init__(self, module: nn.Module, graph: Graph, found: Survey) -> None:
        super().__init__(module, graph, found)
        self._probe = Probe(runs=1)
        self._done: set[Any] = set()

    def _measured(self, form: Any, measure: Callable[[], Measured]) -> Measured:
        cost, restore = self.found.known[form]
        if form in self._done:
            return cost, restore
        self._done.add(form)
        again, restore_again = measure()
        if restore is not None and restore_again is not None:
            seconds = min(restore.seconds, restore_again.seconds)
            restore = replace(restore, seconds=seconds)
        return fastest([again, cost]), restore


_ON_PAPER = ("rerun_", "bind", "hold", "bitmap", "keep_", "pack_noise")
"""The beginnings of the names of operators whose costs follow from those of others."""


def is_measured(n: Node) -> bool:
    """Whether a node's cost is one of its own, and does not follow from those of others."""
    if not n.op.startswith("call_") or (n.target is operator.getitem and _is_of_pair(n)):
        return False
    name = getattr(n.target, "__name__", "")
    return not (is_ours(n) and name.startswith(_ON_PAPER))


def _is_of_pair(n: Node) -> bool:
    return isinstance(n.args[0], Node) and gives_handle(n.args[0])


def is_ours(n: Node) -> bool:
    """Whether a node calls an operator of fxpass."""
    return str(n.target).startswith("fxpass.")


def gives_handle(n: Node) -> bool:
    """Whether a node calls an operator of fxpass that returns a value and its handle."""
    return is_ours(n) and getattr(n.target, "__name__", "") in _PAIRS


_PAIRS = ("relu", "relu_", "batch_norm", "pad")


def lacks(found: Survey, graph: Graph) -> bool:
    """Whether the graph has calls that were not measured."""
    return any(is_measured(n) and key_of(n) not in found.costs for n in graph.nodes)


def _functional(module: nn.Module) -> Any:
    def call(parameters: Mapping[str, Tensor], *args: Any) -> Any:
        return torch.func.functional_call(module, dict(parameters), args)

    return call


def _no_handle(leaf: Any) -> Any:
    return None if isinstance(leaf, torch.ScriptObject) else leaf


def _floats(value: Any) -> bool:
    leaves = pytree.tree_leaves(value)
    return any(isinstance(t, Tensor) and t.is_floating_point() for t in leaves)


def _form(tree: Any) -> Any:
    def of(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return tuple(leaf.shape), leaf.stride(), leaf.dtype, isinstance(leaf, nn.Parameter)
        return str(leaf)

    return tuple(of(leaf) for leaf in pytree.tree_leaves(tree))
