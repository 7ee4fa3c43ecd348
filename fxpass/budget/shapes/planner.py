"""`Planner` without measurements: plans made of shapes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import Graph
from torch.utils import _pytree as pytree

from fxpass.budget.planner import Planner
from fxpass.budget.search import Found
from fxpass.budget.shapes.reader import Reader
from fxpass.budget.shapes.rules import cost_of, restore_of
from fxpass.budget.shapes.variants import gradients_freed
from fxpass.budget.survey import Survey, is_measured, is_ours, key_of
from fxpass.plan import Plan, free_plan, plan_followed


class ShapePlanner(Planner):
    """Plans for one form of inputs, of which only shapes are read.

    For the ops of ResNets, VGG and MobileNetV2 in training mode, in single precision, on one CPU of
    the kind that `fxpass.budget.shapes.layers` describes.

    Args:
        model: whose parameters and buffers may be fake tensors.
        example_inputs: as a tuple; fake tensors if the model is fake.
        density: the share of a ReLU's results that is not zero.
        frees_gradients: each parameter's gradient is gone once the op that made it is through, as
            with `fxpass.optim.in_backward`.

    Raises FxpassError for an op whose bytes are not known from shapes, and TraceError as `Planner`.

    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: tuple[Any, ...],
        density: float = 0.5,
        frees_gradients: bool = False,
    ) -> None:
        self._density, self._frees_gradients = density, frees_gradients
        self._reader: Reader | None = None
        super().__init__(model, example_inputs)

    @property
    def survey(self) -> Survey:
        """What is known so far."""
        return self._survey

    @property
    def graph(self) -> Graph:
        """The model's graph, as captured."""
        return self._capture.graph

    def value(self, name: str) -> Any:
        """The value of a node of that graph, by its name: fake, if the inputs are."""
        assert self._reader is not None
        return self._reader.values[name]

    @property
    def smallest(self) -> Found:
        """The plan of the smallest peak found."""
        return min(self._smallest, self.free, key=lambda found: found.verdict.peak_bytes)

    def following(self, plan: Plan) -> Found:
        """What a plan of this model, made for inputs of another size, takes with these."""
        return self._search.judged(lambda edges: plan_followed(edges, plan) or free_plan(edges))

    def _measure(self, graph: Graph) -> None:
        if self._reader is None:
            self._reader = Reader(self._model, graph, self._inputs)
            self._note_values(graph)
        for node in graph.nodes:
            key = key_of(node)
            if is_measured(node) and key not in self._survey.costs:
                call = self._reader.call(node)
                cost = cost_of(call, is_ours(node))
                if self._frees_gradients:
                    cost = gradients_freed(cost, call.parameters)
                self._survey.costs[key] = cost
                restore = restore_of(call) if is_ours(node) else None
                if restore is not None:
                    self._survey.restores[key] = restore

    def _time_again(self) -> None:
        """Nothing was timed."""

    def _note_values(self, graph: Graph) -> None:
        assert self._reader is not None
        relus: set[str] = set()
        for node in graph.nodes:
            value = self._reader.values.get(node.name)
            if not isinstance(value, Tensor):
                continue
            n_bytes = value.untyped_storage().nbytes()
            self._survey.n_bytes[node.name] = n_bytes
            if node.op.startswith("call_") and value.is_floating_point():
                if self._reader.is_relu(node) or self._views(node, relus):
                    relus.add(node.name)
                share = self._density if node.name in relus else 1.0
                self._survey.packed_bytes[node.name] = int(n_bytes * share) + value.numel() // 8

    def _views(self, node: Any, relus: set[str]) -> bool:
        """Whether a value lies in that of a ReLU."""
        assert self._reader is not None
        storage = self._reader.values[node.name].untyped_storage()._cdata
        return any(
            name in relus and tensor.untyped_storage()._cdata == storage
            for name in (n.name for n in node.all_input_nodes)
            for tensor in pytree.tree_leaves(self._reader.values[name])
        )
