"""The table of what ops save, checked: each row, in every spelling, against autograd itself.

Two witnesses: the tensors that the autograd nodes keep, and the joint graph of forward and
backward that functorch traces. A row says what an op *may* do: a product with a number saves
nothing, dropout in training shares no storage. So no call may do what its row denies, and of each
spelling some call must do what its row says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from _spellings import EXAMPLES, Called, calls_of, trained
from _twins import nodes_behind
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from fxpass.edges.op import Op
from fxpass.edges.table import TABLE


def spellings(where: Callable[[Op], bool] = lambda op: True) -> pytest.MarkDecorator:
    """A test for each spelling of the rows of which something holds."""
    rows = [op for op in TABLE if where(op) and op.name in EXAMPLES]
    pairs = [(op, spelling) for op in rows for spelling in calls_of(op)]
    return pytest.mark.parametrize(
        ("op", "spelling"), pairs, ids=[f"{op.name}-{spelling}" for op, spelling in pairs]
    )


def test_every_row_has_an_example():
    assert EXAMPLES.keys() == {op.name for op in TABLE}
    for op in TABLE:
        spellings = {*op.modules, *op.functions, *op.methods, *op.names}
        assert len(calls_of(op)) == len(spellings)


# ---- what autograd's nodes keep -----------------------------------------------------------------


@dataclass(repr=False)
class Ran:
    """A call that has run.

    Attributes:
        leaf, x: the input, and what it was copied from.
        before: the input's values before.
        result: the first tensor of what came out; None if there is none.
        kept: all tensors given to the nodes.

    """

    leaf: Tensor
    x: Tensor
    before: Tensor
    result: Tensor | None
    kept: list[Tensor]

    @property
    def wrote(self) -> bool:
        return self.x._version > 0

    @property
    def shares(self) -> bool:
        return self.result is not None and storage(self.result) == storage(self.x)


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def ran(call: Called, unpacked: Callable[[Tensor], Tensor] = lambda t: t) -> Ran:
    """Runs the call; `unpacked` is what backward gets for the parts of the input that are kept."""
    kept: list[Tensor] = []
    leaf = call.input()
    x = leaf.clone()
    torch.manual_seed(0)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        return unpacked(tensor) if storage(tensor) == storage(x) else tensor

    with saved_tensors_hooks(pack, unpack):
        out = call.run(x)
    return Ran(leaf, x, leaf.detach().clone(), first_tensor(out), kept)


def first_tensor(out: Any) -> Tensor | None:
    return next((t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)), None)


def keeps(run: Ran) -> dict[str, bool]:
    """Whether the nodes keep input and result; where both are one storage, each is either."""
    of_input = any(storage(t) == storage(run.x) for t in run.kept)
    if run.result is None:
        return {"saves_input": of_input, "saves_result": False}
    of_result = any(storage(t) == storage(run.result) for t in run.kept)
    if run.wrote:  # of an input that is written over, a node keeps a copy
        same = [t for t in run.kept if t.shape == run.before.shape]
        of_input |= any(torch.equal(t, run.before) for t in same)
    return _either(run, of_input, of_result)


def _either(run: Ran, of_input: bool, of_result: bool) -> dict[str, bool]:
    if run.shares:
        of_input = of_result = of_input or of_result
    return {"saves_input": of_input, "saves_result": of_result}


def denied(op: Op, run: Ran, seen: dict[str, bool]) -> list[str]:
    """What was seen and the row denies."""
    says = _either(run, op.saves_input, op.saves_result)
    return [name for name, yes in seen.items() if yes and not says[name]]


def never(op: Op, seen: list[tuple[Ran, dict[str, bool]]]) -> list[str]:
    """What the row says and none of the calls has shown.

    A call that writes shows nothing of the one or the other, if there are any that do not.
    """
    telling = [found for run, found in seen if not run.wrote] or [found for _, found in seen]
    return [
        name
        for name in ("saves_input", "saves_result")
        if getattr(op, name) and not any(found[name] for found in telling)
    ]


@spellings(lambda op: "inplace" in op.parameters and op.saves_input)
def test_what_the_nodes_keep_in_place(op, spelling):
    for call in calls_of(op)[spelling]:
        run = ran(call)
        if run.wrote:
            of_result = any(storage(t) == storage(run.x) for t in run.kept)
            assert of_result == op.inplace_saves_result, call


@spellings()
def test_the_nodes_keep_what_the_row_says(op, spelling):
    seen = []
    for call in calls_of(op)[spelling]:
        run = ran(call)
        seen.append((run, keeps(run)))
        assert not denied(op, *seen[-1]), call
    assert not never(op, seen)


@spellings()
def test_the_attributes_of_the_nodes_say_the_same(op, spelling):
    for call in calls_of(op)[spelling]:
        leaf = call.input()
        x = leaf.clone()
        result = first_tensor(call.run(x))
        if result is None or x._version > 0:  # a node cannot show what was written over
            continue
        run = Ran(leaf, x, leaf.detach().clone(), result, saved_by_nodes(result, x))
        assert keeps(run) == keeps(ran(call)), call


def saved_by_nodes(result: Tensor, x: Tensor) -> list[Tensor]:
    """The `_saved_*` tensors of all nodes between a result and its input."""
    found: list[Tensor] = []
    for node in nodes_behind(result, until=x.grad_fn):
        names = [name for name in dir(node) if name.startswith("_saved_")]
        values = pytree.tree_leaves([getattr(node, name) for name in names])
        found += [t for t in values if isinstance(t, Tensor)]
    return found


@spellings()
def test_the_result_lies_where_the_row_says(op, spelling):
    runs = [(call, ran(call)) for call in calls_of(op)[spelling]]
    for call, run in runs:
        assert not run.wrote or (call.may_write and run.shares), call
        assert run.wrote or not op.writes_input, call
    # That a result written over its input lies there need not be said.
    seen = any(run.shares and (op.writes_input or not run.wrote) for _, run in runs)
    assert seen is op.shares_storage


# ---- what backward reads of it ------------------------------------------------------------------


def gradients(call: Called, unpacked: Callable[[Tensor], Tensor] = lambda t: t) -> list[Any]:
    run = ran(call, unpacked)
    loss = (run.result * trained(*run.result.shape).detach()).sum()
    wanted = with_gradient(run.leaf, *call.parameters)
    return list(torch.autograd.grad(loss, wanted, allow_unused=True))


def with_gradient(*tensors: Tensor) -> list[Tensor]:
    return [t for t in tensors if t.requires_grad]


@spellings(lambda op: op.saves_input)
def test_backward_reads_the_kept_input_where_the_row_says(op, spelling):
    reads = []
    for call in calls_of(op)[spelling]:
        if ran(call).wrote:  # what is kept is no longer the input
            continue
        # Not a multiple alone: ops that look at signs and limits must notice.
        changed = gradients(call, lambda t: t * 1.7 + 1 if t.is_floating_point() else t.flip(0))
        pairs = zip(gradients(call), changed, strict=True)
        reads.append(any(a is not None and not torch.equal(a, b) for a, b in pairs))
    assert any(reads) is op.reads_saved


# ---- zeros --------------------------------------------------------------------------------------


@spellings(lambda op: op.keeps_zeros)
def test_a_zero_stays_a_zero_and_little_else_becomes_something(op, spelling):
    """Only the rows that say so: whether others do it too, nobody asks."""
    for call in calls_of(op)[spelling]:
        zeros = torch.zeros_like(call.input())
        result = pytree.tree_leaves(call.run(zeros.clone()))[0]
        assert not result.count_nonzero(), call
        zeros.view(-1)[7] = 1
        result = pytree.tree_leaves(call.run(zeros))[0]
        assert result.count_nonzero() <= max(2, result.numel() // zeros.numel()), call


# ---- functorch's joint graph --------------------------------------------------------------------


def joint_reads(call: Called) -> dict[str, bool] | None:
    """Whether the backward part of the joint graph reads input and result; None without a result.

    The graph: x = clone(leaf); result = ...; marker = neg(gradient); then all of backward.
    """
    run = ran(call)
    if run.result is None:
        return None

    def joint(leaf: Tensor, gradient: Tensor) -> tuple[Any, ...]:
        x = leaf.clone()
        result = first_tensor(call.run(x))
        wanted = with_gradient(leaf, *call.parameters)
        grads = torch.autograd.grad(result, wanted, gradient.neg(), allow_unused=True)
        return x, result, grads

    graph = make_fx(joint)(call.input(), torch.ones_like(run.result)).graph
    nodes = list(graph.nodes)
    _, gradient = [n for n in nodes if n.op == "placeholder"]
    marker = nodes.index(next(iter(gradient.users)))
    x, result, _ = next(n for n in nodes if n.op == "output").args[0]
    forward, backward = set(nodes[:marker]), nodes[marker + 1 : -1]
    read = {
        origin(value, run.wrote)
        for node in backward
        if not is_alias(node)
        for value in node.all_input_nodes
        if origin(value, run.wrote) in forward
    }
    return _either(run, origin(x) in read, origin(result) in read)


def is_alias(node: Any) -> bool:
    """Whether a node of the graph is a view of its first argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(r.alias_info is not None for r in schema.returns)


def origin(node: Any, of_copies: bool = False) -> Any:
    """The node whose storage a node's value lies in; for a copy, that of what was copied."""
    while is_alias(node) or (of_copies and is_copy(node)):
        node = node.args[0]
    return node


def is_copy(node: Any) -> bool:
    """Whether a node is a copy, other than that of the leaf."""
    return node.target is torch.ops.aten.clone.default and node.args[0].op != "placeholder"


@spellings()
def test_the_joint_graph_reads_what_the_row_says(op, spelling):
    seen = []
    for call in calls_of(op)[spelling]:
        found = joint_reads(call)
        if found is None:
            continue
        seen.append((ran(call), found))
        assert not denied(op, *seen[-1]), call
    assert not seen or not never(op, seen)
