"""The forward of a step on paper: the rewritten graph of a plan, as the program runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxpass.budget.backward import Leaf, Record
from fxpass.budget.holding import Buffer, Handle, Kept, Memory
from fxpass.budget.probe import Cost
from fxpass.budget.survey import Survey, gives_handle, is_ours, key_of


class Forward:
    """Runs a rewritten graph; leaves the autograd nodes that its backward has."""

    def __init__(self, module: nn.Module, graph: Graph, survey: Survey) -> None:
        self.memory = Memory()
        self.module = module
        self.graph = graph
        self.survey = survey
        self.values: dict[Node, Buffer] = {}
        self.handles: dict[Node, Handle | None] = {}
        self.records: dict[Node, Record] = {}
        self.leaves: dict[Node | Tensor, Leaf] = {}
        self._count = 0
        self.by_origin: dict[tuple[str, ...], Cost] = {}
        for node in graph.nodes:
            cost = survey.costs.get(key_of(node)) if node.op.startswith("call_") else None
            if cost is not None:
                self.by_origin[key_of(node)[1]] = cost

    def run(self) -> list[Record]:
        """Runs it and returns the nodes of the outputs."""
        last_use: dict[Node, Node] = {}
        for node in self.graph.nodes:
            for value in node.all_input_nodes:
                last_use[value] = node
        dying: dict[Node, list[Node]] = {}
        for value, user in last_use.items():
            dying.setdefault(user, []).append(value)
        roots: list[Record] = []
        for node in self.graph.nodes:
            self.memory.at = node.name
            if node.op == "placeholder":
                self.values[node] = Buffer(
                    self.memory, self.survey.n_bytes.get(node.name, 0), False
                )
            elif node.op == "output":
                roots = [self.records[n] for n in node.all_input_nodes if n in self.records]
                continue  # the caller has them
            elif node.op != "get_attr":
                self._call(node)
            handle = self.handles.get(node)
            if handle is not None:
                handle.names += 1
            for value in [*dying.get(node, ()), *([node] if not node.users else [])]:
                if value in self.values:
                    self.values.pop(value).drop()
                known = self.handles.pop(value, None)
                if known is not None:
                    known.forget()
        return roots

    def _call(self, node: Node) -> None:
        name = getattr(node.target, "__name__", str(node.target))
        args = node.args
        if name == "getitem" and isinstance(args[0], Node) and gives_handle(args[0]):
            pair, index = args[0], args[1]
            if index == 0:
                self.values[node] = self.values[pair].hold()
                self._same_record(node, pair)
                self.handles[node] = self.handles[pair]
            else:
                self.handles[node] = self.handles[pair]
        elif name == "bitmap":
            self.handles[node] = self._bitmap(args[0], node, bits=True)
        elif name == "bind":
            self.handles[node] = self._bind(*args)
        elif name == "hold":
            handle: Any = self.handles[args[0]]  # type: ignore[index]
            if handle is not None:
                handle.fetches = list(args[1])  # type: ignore[arg-type]
            self.handles[node] = handle
        elif name.startswith("rerun_"):
            self.handles[node] = self._rerun(node, name)
        elif name in ("keep_input", "keep_result"):
            self._keep(node, name)
        elif name == "pack_noise":
            self._pack_noise(node)
        else:
            self._measured(node, name)

    def _tensors(self, node: Node) -> list[Node | None]:
        """What the tensors of a call's arguments are, by place; None: of the module called."""
        found: list[Node | None] = []
        if node.op == "call_module":
            found += [None for _ in _module(self.module, str(node.target)).parameters()]
        for leaf in pytree.tree_leaves((node.args, node.kwargs)):
            if isinstance(leaf, Node) and (leaf in self.values or self._is_tensor_attribute(leaf)):
                found += [leaf] * self._pieces(leaf)
        return found

    def _pieces(self, node: Node) -> int:
        """How many tensors a value is: chunk and the like give several."""
        return self.survey.pieces.get(key_of(node)[1][-1], 1) if node.op.startswith("call_") else 1

    def _is_tensor_attribute(self, node: Node) -> bool:
        return node.op == "get_attr" and isinstance(_attribute(self.module, node), Tensor)

    def _measured(self, node: Node, name: str) -> None:
        cost = self.survey.costs[key_of(node)]
        memory = self.memory
        tensors = self._tensors(node)
        memory.seconds += cost.seconds
        memory.touch(cost.peak_bytes)
        record = self._record(node, name, cost, tensors)
        aliased = None if cost.alias is None else tensors[cost.alias]
        if aliased is not None and aliased in self.values:
            self.values[node] = self.values[aliased].hold()
        else:
            self.values[node] = Buffer(memory, cost.out_bytes)
        if record is not None:
            if -1 in cost.saves and not is_ours(node):
                record.kept.append(Kept(self.values[node], None, self.memory))
            self.records[node] = record
            if aliased is not None and _writes(name):
                for other, buffer in self.values.items():
                    if buffer is self.values[node]:
                        self.records[other] = record
        elif cost.alias is not None and aliased in self.records:
            self.records[node] = self.records[aliased]
        self.handles[node] = self._handle_of(node, name, tensors)

    def _record(
        self, node: Node, name: str, cost: Cost, tensors: list[Node | None]
    ) -> Record | None:
        if not cost.phases:
            return None
        own = Buffer(self.memory, cost.own_bytes) if cost.own_bytes else None
        kept = [
            Kept(value, handle, self.memory)
            for value, handle in self._keeps(node, name, cost, tensors)
        ]
        targets: dict[int, Record | Leaf] = {}
        for place in cost.gradients:
            value = tensors[place]
            target: Record | Leaf | None = None if value is None else self.records.get(value)
            if target is None:
                target = self._leaf(node, place, value)
            targets[place] = target
            target.waiting += 1
        self._count += 1
        return Record(self._count, node.name, cost, kept, own, targets, self._pieces(node))

    def _leaf(self, node: Node, place: int, value: Node | None) -> Leaf:
        """The leaf that is the tensor at a place of a call's arguments."""
        leaf: Node | Tensor
        if value is None:
            leaf = list(_module(self.module, str(node.target)).parameters())[place]
        else:
            leaf = _attribute(self.module, value) if value.op == "get_attr" else value
        updates: dict[Any, int] = self.survey.updates
        return self.leaves.setdefault(leaf, Leaf(updates.get(leaf)))

    def _keeps(
        self, node: Node, name: str, cost: Cost, tensors: list[Node | None]
    ) -> Iterator[tuple[Buffer, Handle | None]]:
        args: Any = node.args
        if not is_ours(node):
            for place in sorted(cost.saves - {-1}):
                value = tensors[place]
                if value is not None and value in self.values:
                    yield self.values[value], None
        elif name.startswith(("conv", "linear")):
            if 1 in cost.gradients:
                yield self.values[args[0]], self.handles.get(args[1])
        elif (name == "batch_norm" and key_of(node) in self.survey.restores) or (
            name.startswith("activation") and not _masked(args)
        ):
            yield self.values[args[0]], self.handles.get(args[1])
        elif name == "mul":
            a, a_handle, b, b_handle = args
            places = {value: place for place, value in enumerate(tensors)}
            if places[b] in cost.gradients:
                yield self.values[a], self.handles.get(a_handle)
            if places[a] in cost.gradients:
                yield self.values[b], self.handles.get(b_handle)

    def _handle_of(self, node: Node, name: str, tensors: list[Node | None]) -> Handle | None:
        args: Any = node.args
        if not is_ours(node):
            return None
        if name in ("relu", "relu_"):
            return self._bitmap(node, node, bits=False)
        if name == "batch_norm" and key_of(node) not in self.survey.restores:
            return self._bitmap(node, node, bits=False) if "relu" in args else None
        if name == "batch_norm" and node in self.records:
            restore = self.survey.restores[key_of(node)]
            kept = [Kept(self.values[args[0]], self.handles.get(args[1]), self.memory)]
            handle = Handle(self.values[node], kept, restore.seconds, restore.peak_bytes)
            handle.n_bytes = self.values[node].n_bytes
            return handle
        if name == "pad":
            cost = self.survey.costs[key_of(node)]
            kept = [Kept(self.values[args[0]], self.handles.get(args[1]), self.memory)]
            handle = Handle(self.values[node], kept, cost.seconds, cost.peak_bytes)
            handle.n_bytes = self.values[node].n_bytes
            return handle
        return None

    def _bitmap(self, value: Any, node: Node, bits: bool) -> Handle:
        name = key_of(node)[1][-1]
        buffer = self.values[value]
        packed = self.survey.packed_bytes.get(name, buffer.n_bytes)
        if not bits and packed < buffer.n_bytes:  # else it stays dense
            packed -= buffer.n_bytes // 32  # those of the mask do
        return Handle(buffer, None, packed_bytes=packed, peak_bytes=buffer.n_bytes)

    def _bind(self, handle: Any, value: Any, otherwise: Any = None) -> Handle | None:
        made = self.handles[handle]
        if made is None or made.inputs is None:
            return self.handles.get(otherwise) if otherwise is not None else made
        made.value = self.values[value]
        made.n_bytes = made.value.n_bytes
        return made

    def _rerun(self, node: Node, name: str) -> Handle:
        cost = self.by_origin.get(key_of(node)[1])
        inputs: list[Kept] | None = []
        for value, handle, dense in _rerun_inputs(node, name):
            known = self.handles.get(handle) if handle is not None else None
            usable = known is not None and known.fits
            if not usable and not dense:
                for kept in inputs or ():
                    kept.release()
                inputs = None
                break
            assert inputs is not None
            inputs.append(Kept(self.values[value], known if usable else None, self.memory))
        seconds = cost.seconds if cost else 0.0
        peak = cost.peak_bytes if cost else 0
        handle_made = Handle(None, inputs, seconds, peak)
        handle_made.in_place = name in ("rerun_add", "rerun_activation", "rerun_mul")
        if name.startswith(("rerun_conv", "rerun_linear")):
            y = node.args[0]
            handle_made.value = self.values[y]  # type: ignore[index]
            handle_made.n_bytes = handle_made.value.n_bytes
            bias = node.args[5]
            if inputs is not None and isinstance(bias, Node):
                handle_made.own = Buffer(self.memory, _attribute(self.module, bias).nbytes)
        if cost is not None and cost.alias is not None:
            handle_made.peak_bytes = max(peak, self._bytes_of(node))
        return handle_made

    def _bytes_of(self, node: Node) -> int:
        return self.survey.n_bytes.get(key_of(node)[1][-1], 0)

    def _keep(self, node: Node, name: str) -> None:
        y, x, handle = node.args
        record = self.records.get(y)  # type: ignore[arg-type]
        value = self.values[x if name == "keep_input" else y]  # type: ignore[index]
        self.values[node] = self.values[y].hold()  # type: ignore[index]
        self._same_record(node, y)
        known = self.handles.get(handle)  # type: ignore[arg-type]
        if record is None or known is None:
            return
        for kept in record.kept:
            if kept.buffer is value and known.claim(self.memory):
                kept.buffer.drop()
                kept.buffer, kept.handle = None, known
                return

    def _pack_noise(self, node: Node) -> None:
        y = node.args[0]
        self.values[node] = self.values[y].hold()  # type: ignore[index]
        self._same_record(node, y)
        record = self.records.get(y)  # type: ignore[arg-type]
        if record is not None and record.own is not None:
            bits = Buffer(self.memory, record.own.n_bytes // 32)
            record.own.drop()
            record.own = bits

    def _same_record(self, node: Node, other: Any) -> None:
        if other in self.records:
            self.records[node] = self.records[other]


def _writes(name: str) -> bool:
    return name.endswith("_") or name in ("iadd", "isub")


def _masked(args: tuple[Any, ...]) -> bool:
    return len(args) > 4 and bool(args[4])


def _rerun_inputs(node: Node, name: str) -> Iterator[tuple[Any, Any, bool]]:
    args: Any = node.args
    if name in ("rerun_add", "rerun_mul"):
        yield args[0], args[1], bool(args[2])
        yield args[3], args[4], bool(args[5])
    elif name == "rerun_cat":
        for value, handle in zip(args[0], args[1], strict=True):
            yield value, handle, True
    elif name.startswith(("rerun_conv", "rerun_linear")):
        yield args[1], args[2], bool(args[3])
    else:
        yield args[0], args[1], bool(args[-1])


def _module(root: nn.Module, path: str) -> nn.Module:
    return root.get_submodule(path)


def _attribute(root: nn.Module, node: Node) -> Any:
    value: Any = root
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value
