"""The free plan: the cheapest exact recipe of each value, nothing heavier than a norm re-run.

Which values are kept is the cheapest cut between what cannot be made again (the results of
convolutions, products of matrices, unknown ops) and what backward reads (plan/cut.py). All others
are restored from those kept. Where backward reads one bit an element of a value (ReLU6, leaky
ReLU), those bits are a value of their own in that cut, made of the other one. What a norm keeps for
itself pays for the activation behind it; the pieces of a DenseNet's concatenations pay for the
concatenations.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from fxpass.edges import Call, Edges, describe, relative_sizes
from fxpass.plan.cut import cheapest_to_keep
from fxpass.plan.plan import Choice, Plan, Recipe

_FUSED = (
    *("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "mish"),
    *("leaky_relu", "elu", "celu", "selu", "threshold"),
)
"""The activations that are one op with the batch norm in front of them."""

_WITH_PARAMETERS = ("layer_norm", "group_norm", "instance_norm", "prelu")
"""The ops whose handle copies parameters, beside the module that reads them too."""

_LAST_RESORT = 1e15
"""The cost of a value that is saved and then written over: eager's backward raises."""

_BITMAP_SHARE = 0.55
"""What a bitmap takes of the dense value, about half of whose elements a ReLU has zeroed."""


_MASK_SHARE = 1 / 32
"""What a mask takes of the dense value."""


@dataclass(frozen=True)
class _Mask:
    """One bit an element of the input of `activation`, which is all that its backward reads."""

    activation: Node


def free_plan(edges: Edges) -> Plan:
    """A recipe for every value that is saved, or from which a saved one is restored."""
    return _FreePlanner(edges).plan()


class _FreePlanner:
    def __init__(self, edges: Edges) -> None:
        self.edges = edges
        self.nodes: list[Node] = list(edges.graph.nodes)
        self.strangers = {node: edges.strangers(node) for node in self.nodes}
        self.sizes = {n: max(size, 1e-9) for n, size in relative_sizes(edges).items()}
        self.sparse: set[Node] = set()
        for node in self.nodes:
            call = edges.calls.get(node)
            if call is not None and _is_sparse(call, self.sparse):
                self.sparse.add(node)
        pairs = {c.node: batch_norm_fused_with(c, edges) for c in edges.calls.values()}
        self.fused = {norm.node for norm in pairs.values() if norm is not None}
        self.with_norm = {node for node, norm in pairs.items() if norm is not None}
        self.masks = self._masks()
        self.needed = self._needed()
        self.sources: dict[Node, list[Node]] = {}
        for node in self.nodes:
            sources = self._sources(node)
            if sources is not None:
                self.sources[node] = sources
        self.kept, self.masked = self._kept()
        self.restored = self._restored()

    def plan(self) -> Plan:
        choices = []
        for node in self.nodes:
            savers = self.edges.savers(node)
            call = self.edges.calls.get(node)
            if _is_view(call):
                continue  # the value it lies in has the recipe
            if self.edges.facts.is_weight(node) and not any(
                node in saver.inputs for saver in savers
            ):
                continue  # a weight, which is there anyway
            if node in self.fused:
                continue  # it is never there
            if savers or node in self.with_norm | self.restored | self.kept:
                recipe, reason = self._choose(node, call)
            elif call is not None and _keeps_its_own(call):
                recipe, reason = Recipe.NOTHING, "backward reads no element of it"
            else:
                continue
            names = tuple(describe(saver.node) for saver in savers)
            ops = self._ops(node, savers)
            choices.append(Choice(node.name, describe(node), names, recipe, reason, ops))
        return Plan(tuple(choices))

    def _ops(self, node: Node, savers: list[Call]) -> tuple[str, ...]:
        """The nodes that compute and save a value; the norm in front too, if they are one op."""
        norm = self.edges.calls[node].inputs if node in self.with_norm else []
        nodes = [*norm, node, *(saver.node for saver in savers)]
        return tuple(dict.fromkeys(n.name for n in nodes))

    def _choose(self, node: Node, call: Call | None) -> tuple[Recipe, str]:
        if node in self.with_norm:
            return Recipe.AFFINE, "one op with the batch norm, which keeps its own input"
        if node in self.restored and call is not None:
            if call.op.name.startswith("batch_norm"):
                return Recipe.AFFINE, "the batch norm keeps its own input"
            return Recipe.RERUN, f"{call.op.name} again on what is kept anyway"
        if self.strangers[node]:
            return Recipe.DENSE, _stranger(self.strangers[node][0])
        reads_values = node in self.kept
        if call is not None and call.op.name == "relu":
            if pool_fused_with(call, self.edges) is not None:
                return Recipe.CODE, "only the max pool reads it, and remembers where its maxima are"
            if not reads_values:
                return Recipe.MASK, "backward reads only where it is positive"
        if node in self.masked:
            return Recipe.MASK, "backward reads only between which bounds it lies"
        if not reads_values:
            return Recipe.NOTHING, "backward reads no element of it"
        if node in self.sparse:
            return Recipe.BITMAP, "it has the zeros of a ReLU, and backward reads the rest"
        if not self.edges.savers(node):
            return Recipe.DENSE, "what is made of it takes more"
        return Recipe.DENSE, "no cheaper exact recipe for this op"

    def _kept(self) -> tuple[set[Node], set[Node]]:
        """The cheapest values to keep, and those of which a mask is kept.

        A mask can be made of the value itself, if that is there for others.
        """
        made_of: dict[Node | _Mask, list[Node]] = dict(self.sources.items())
        costs: dict[Node | _Mask, float] = dict(self._costs().items())
        for mask, value in self.masks.items():
            made_of[mask], costs[mask] = [value], self.sizes[value] * _MASK_SHARE
        needed: list[Node | _Mask] = [*self.needed, *self.masks]
        kept = cheapest_to_keep(made_of, costs, needed)
        masked = {value for mask, value in self.masks.items() if mask in kept}
        return {value for value in kept if isinstance(value, Node)}, masked

    def _masks(self) -> dict[_Mask, Node]:
        """The masks that may be kept instead of a value of which backward reads bits.

        What nobody of the table has made, or somebody outside of it sees, is most likely there in
        backward anyway.
        """
        found = {}
        for call in self.edges.calls.values():
            if call.reads_bits and call.node not in self.with_norm:
                value = call.inputs[0]
                if self._is_made_here(value) and not self.strangers[value]:
                    found[_Mask(call.node)] = value
        return found

    def _is_made_here(self, value: Node) -> bool:
        """Whether an op of the table has made what `value` is, and not only lies in."""
        call = self.edges.calls.get(value)
        while call is not None and call.op.shares_storage and call.inputs and not _is_view(call):
            call = self.edges.calls.get(call.inputs[0])
        return call is not None and not _is_view(call)

    def _needed(self) -> set[Node]:
        """The values whose elements backward reads, those aside of which a mask may do."""
        found: set[Node] = set()
        for call in self.edges.calls.values():
            if _Mask(call.node) in self.masks:
                continue
            if call.op.saves_input and call.op.reads_saved and self.edges.saves_input(call):
                found.update(call.inputs)
            if call.op.saves_result and call.op.name != "relu":
                found.add(call.node)
        # Whoever keeps a view keeps what it is a view of.
        found = {self._base(node) for node in found - self.fused}
        return {node for node in found - self.fused if not self.edges.facts.is_weight(node)}

    def _base(self, node: Node) -> Node:
        call = self.edges.calls.get(node)
        while _is_view(call) and call is not None and call.inputs:
            node = call.inputs[0]
            call = self.edges.calls.get(node)
        return node

    def _sources(self, node: Node) -> list[Node] | None:
        """What `node` can be made of in backward, or None if it cannot."""
        call = self.edges.calls.get(node)
        if call is None or not call.inputs:
            return None
        if _is_view(call):
            return call.inputs
        if not call.op.cheap or not self._can_rerun(call):
            return None
        inputs = [n for n in call.inputs if not self.edges.facts.is_weight(n)]
        if not inputs:
            return None  # of weights alone: the optimizer may write to them before backward
        relu = self.edges.calls.get(inputs[0])
        if relu is not None and relu.op.name == "relu" and pool_fused_with(relu, self.edges):
            inputs = relu.inputs
        batch_norm = batch_norm_fused_with(call, self.edges)
        if batch_norm is not None:
            inputs = batch_norm.inputs
        # What is written over can only be made again itself.
        if any(self.edges.writers(n) and n not in self.sources for n in inputs):
            return None
        return inputs

    def _can_rerun(self, call: Call) -> bool:
        name, arguments = call.op.name, call.arguments
        if name.startswith("batch_norm"):
            return True
        if call.hooked or arguments.get("return_indices"):
            return False
        if name == "relu":
            return pool_fused_with(call, self.edges) is None
        if name.startswith("max_pool"):
            # Whether it is one op with a ReLU that writes to what hooks saw turns out when it runs.
            relu = self.edges.calls.get(call.inputs[0])
            return relu is None or not self.edges.writes_what_hooks_saw(relu)
        if name in _WITH_PARAMETERS:
            return call.reads_parameters_anew
        if name == "glu":
            return True
        if not all(map(self.edges.is_tensor, call.inputs)):
            return False
        if name in ("add", "add_", "mul"):
            return len(call.inputs) == len(arguments["input"]) == 2
        if name in ("softmax", "log_softmax"):
            return isinstance(arguments["dim"], int) and arguments["dtype"] is None
        if name == "stochastic_depth":
            known = arguments["mode"] in ("row", "batch")
            return bool(arguments["training"]) and known and 0 < arguments["p"] <= 1
        return True

    def _costs(self) -> dict[Node, float]:
        """What keeping a value takes. One without a cost cannot be kept for others."""
        costs = {}
        for node in self.nodes:
            call = self.edges.calls.get(node)
            if _is_view(call):
                continue
            if self.edges.writers(node) and node in self.sources:
                if node in self.needed:
                    costs[node] = _LAST_RESORT
                continue
            share = _BITMAP_SHARE if node in self.sparse and not self.strangers[node] else 1.0
            if node in self.needed or not self.strangers[node]:
                costs[node] = self.sizes[node] * share
        return costs

    def _restored(self) -> set[Node]:
        """Every value that is made again, or on the way to one."""
        unmasked = set(self.masks.values()) - self.masked
        todo, found = [n for n in self.needed | unmasked if n not in self.kept], set()
        while todo:
            node = todo.pop()
            if node in found or node in self.kept:
                continue
            found.add(node)
            todo += self.sources.get(node, ())
        return found


def _is_view(call: Call | None) -> bool:
    return call is not None and call.op.name == "view"


def _keeps_its_own(call: Call) -> bool:
    """Whether the op keeps something for itself alone: neither its input nor its result."""
    return call.op.name.endswith(("dropout", "pad"))


def _stranger(node: Node) -> str:
    if node.op == "output":
        return "the model returns it"
    return f"{describe(node)} may save it or write to it"


def _is_sparse(call: Call, sparse: set[Node]) -> bool:
    """Whether the result's zeros come from a ReLU, through ops that keep zeros."""
    if call.op.name in ("relu", "relu6"):
        return True
    if call.op.name == "hardtanh" and call.arguments["min_val"] == 0:
        return True
    return call.op.keeps_zeros and bool(call.inputs) and sparse.issuperset(call.inputs)


def pool_fused_with(relu: Call, edges: Edges) -> Call | None:
    """The max pool that reads this ReLU alone, if the two can be one op.

    Both values in between must have one reader: with more, the gradient contributions of several
    nodes would be summed in another order than eager's. The one op writes nothing to the ReLU's
    input, so where eager does, nobody else may see that input; whether a hook still holds it turns
    out at run time. It reads that input where the pool stands: if others may lie in its storage (it
    is an input of the graph, or a buffer), nothing may be written in between.
    """
    value = relu.inputs[0] if relu.inputs else None
    if value is None or len(value.users) != 1 or len(relu.node.users) != 1:
        return None
    if relu.arguments["inplace"] and not edges.is_new(value):
        return None
    pool = edges.calls.get(next(iter(relu.node.users)))
    if pool is None or not pool.op.name.startswith("max_pool"):
        return None
    if not edges.facts.are_together(relu.node, pool.node):
        return None
    if not edges.is_new(value) and edges.may_write_between(relu.node, pool.node):
        return None
    return None if pool.arguments["return_indices"] or pool.hooked or relu.hooked else pool


def batch_norm_fused_with(activation: Call, edges: Edges) -> Call | None:
    """The batch norm that this activation alone reads, if the two can be one op."""
    value = activation.inputs[0] if activation.inputs else None
    call = None if value is None else edges.calls.get(value)
    if activation.op.name not in _FUSED or call is None:
        return None
    if not call.op.name.startswith("batch_norm") or call.arguments["eps"] <= 0:
        return None
    if len(call.node.users) != 1 or call.hooked or activation.hooked:
        return None
    if not edges.facts.are_together(call.node, activation.node):
        return None
    is_relu = activation.op.name == "relu"
    return None if is_relu and pool_fused_with(activation, edges) is not None else call
