"""From a module to a graph that is believed: one trace, or as many as it has lossy parts."""

from __future__ import annotations

import operator
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from fxpass.capture.guards import Guards
from fxpass.capture.losses import Loss, Lossy, Stop, location_of_error
from fxpass.capture.modules import is_leaf, is_overridden, is_wrapper
from fxpass.capture.pattern import ArgPattern
from fxpass.capture.snapshot import Snapshot
from fxpass.capture.tracer import Tracer
from fxpass.capture.values import IN_PLACE

_ONE_AT_A_TIME = threading.RLock()  # fx replaces methods of nn.Module while it traces.
_SAME_CLASS_LIMIT = 2


@dataclass
class Capture:
    """A believed trace of `root` for one pattern of arguments.

    `leaves` and `boundaries` are the modules that `call_module` nodes call, by target: torch's own
    modules, and the containers that are to be called as units of their own. `hooked` names the
    leaves whose hooks have to run around their op, `overridden` the leaves to be called as they
    are, since calling them does not run the forward of their class. `losses` is what earlier
    traces would have lost: the reason for some of the boundaries.
    """

    graph: fx.Graph
    root: nn.Module
    pattern: ArgPattern
    leaves: dict[str, nn.Module]
    boundaries: dict[str, nn.Module]
    hooked: frozenset[str]
    overridden: frozenset[str]
    guards: Guards
    losses: list[Loss] = field(default_factory=list)


@dataclass
class OwnForward:
    """No trace of `module` is believed: it runs its own Python forward.

    The last of `losses` is its own. There are none for a module of torch's with no children:
    its forward is nothing but its op; and none for a wrapper, which has no op.
    """

    module: nn.Module
    losses: list[Loss]


def capture_unit(
    module: nn.Module, pattern: ArgPattern, cut: Collection[nn.Module] = ()
) -> Capture | OwnForward:
    """A capture in which every part that loses something is a boundary, and so is each in `cut`.

    A class that lost something more than a few times loses all its instances at once: a deep model
    of lossy blocks would otherwise be traced once for each of them.
    """
    if is_wrapper(module):
        return OwnForward(module, [])
    losses: list[Loss] = []
    boundaries: dict[nn.Module, None] = dict.fromkeys(cut)
    count: Counter[type] = Counter()
    while True:
        try:
            found = capture(module, pattern, boundaries)
        except Lossy as lossy:
            losses.append(lossy.loss)
            part = lossy.module
            if part is module or part in boundaries:
                is_an_op = is_leaf(module) and not module._modules
                return OwnForward(module, [] if is_an_op else losses)
            boundaries[part] = None
            count[type(part)] += 1
            if count[type(part)] > _SAME_CLASS_LIMIT:
                alike = [m for m in module.modules() if type(m) is type(part) and m is not module]
                boundaries.update(dict.fromkeys(alike))
        else:
            found.losses = losses
            return found


def capture(
    module: nn.Module, pattern: ArgPattern, boundaries: Collection[nn.Module] = ()
) -> Capture:
    """Traces `module` once; raises Lossy, with all state as it was, if that lost anything."""
    if is_overridden(module):
        raise Lossy(module, "", "has a forward that was replaced on the instance")
    if isinstance(module, torch.jit.ScriptModule):
        raise Lossy(module, "", "is TorchScript, which has no Python forward to trace")
    with _ONE_AT_A_TIME:
        snapshot = Snapshot(module)
        tracer = Tracer(pattern, boundaries, snapshot)
        try:
            graph = _trace(tracer, module)
            changed = snapshot.difference()
        finally:
            snapshot.restore()
    if changed is not None:
        owner = changed[0] or module
        raise Lossy(owner, tracer.path_below_root(owner), changed[1])
    _check_rebinding(graph, tracer, module)
    for node in graph.nodes:
        node.type = None  # An annotation would be evaluated by the generated code,
        node.meta.pop("is_wrapped", None)  # and this would register the function anew.
    return Capture(
        graph,
        module,
        pattern,
        tracer.leaves,
        tracer.boundaries,
        frozenset(p for p, m in tracer.leaves.items() if tracer.hooked(m)),
        frozenset(p for p, m in tracer.leaves.items() if is_overridden(m)),
        tracer.guards(),
    )


def _trace(tracer: Tracer, module: nn.Module) -> fx.Graph:
    graph = None
    try:
        graph = tracer.trace(module)
    except Stop:
        pass
    except Exception as error:
        if tracer.lost is None:
            part, path = tracer.failed or module, tracer.path_below_root(tracer.failed or module)
            location = location_of_error(error.__traceback__)
            reason = f"cannot be traced ({type(error).__name__}: {error})"
            raise Lossy(part, path, reason, location) from error
    if tracer.lost is not None:
        part, reason, location = tracer.lost
        raise Lossy(part, tracer.path_below_root(part), reason, location)
    if tracer.failed is not None:
        path = tracer.path_below_root(tracer.failed)
        raise Lossy(tracer.failed, path, "raises an exception that is caught by its caller")
    assert graph is not None
    return graph


def _check_rebinding(graph: fx.Graph, tracer: Tracer, module: nn.Module) -> None:
    """Stops `b = a; b += c; use(a)` where nobody knows whether `a` is changed or `b` made anew."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _IN_PLACE_OPERATORS:
            old = node.args[0]
            last_use = max(place[user] for user in old.users)
            if tracer.kinds[old] is not Tensor and last_use > place[node]:
                raise Lossy(module, "", "uses a value of unknown type after += or the like")


_IN_PLACE_OPERATORS = frozenset(getattr(operator, name) for name in IN_PLACE)
