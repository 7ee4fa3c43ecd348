"""torch.utils.checkpoint in a captured graph: the function itself, in place of Dynamo's operator.

    y = tag_activation_checkpoint(body, x, w, use_reentrant=False)
    ->
    y = checkpoint(body of w, x, use_reentrant=False)

Dynamo's operator is made for compilers that trace it. Run as it is, it recomputes dropout with
other random numbers than eager, and saves the counters of batch norms that its own body then
changes. Parameters and buffers, which Dynamo makes arguments of the body, are none of the user's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.utils.checkpoint import checkpoint

from fxpass.dynamo.facts import is_weight

_TAGGED: Any = torch.ops.higher_order.tag_activation_checkpoint


def replace_checkpoints(captured: GraphModule, compiled: Callable[[GraphModule], Any]) -> None:
    """Puts checkpoint itself in the place of Dynamo's operator; `compiled`: what runs a body."""
    for node in captured.graph.find_nodes(op="call_function", target=_TAGGED):
        body, *args = node.args
        assert isinstance(body, Node)
        module: Any = captured.get_submodule(str(body.target))
        settings, kwargs = _TAGGED.divide_kwargs(node.kwargs)
        if "_checkpoint_context_fn" in module.meta:
            settings["context_fn"] = module.meta["_checkpoint_context_fn"]
        held = [isinstance(arg, Node) and is_weight(arg) for arg in args]
        name = f"checkpointed_{node.name}"
        captured.add_submodule(name, _Checkpointed(compiled(module), held, settings))
        with captured.graph.inserting_before(node):
            called = captured.graph.call_module(name, tuple(args), kwargs)
        called.meta.update(node.meta)
        node.replace_all_uses_with(called)
        captured.graph.erase_node(node)
    captured.recompile()


class _Checkpointed(nn.Module):
    """Calls `body`, of whose arguments those that are `held` are not checkpoint's."""

    def __init__(
        self, body: Callable[..., Any], held: list[bool], settings: dict[str, Any]
    ) -> None:
        super().__init__()
        self.body, self.held, self.settings = body, held, settings

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        pairs = list(zip(args, self.held, strict=True))

        def body(*given: Any, **named: Any) -> Any:
            rest = iter(given)
            return self.body(*(a if held else next(rest) for a, held in pairs), **named)

        given = [a for a, held in pairs if not held]
        return checkpoint(body, *given, **self.settings, **kwargs)
