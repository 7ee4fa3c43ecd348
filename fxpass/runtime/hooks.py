"""Calling something in place of a module's forward, with all the hooks of that module.

The order is that of `nn.Module.__call__`: global hooks before the module's own; pre-hooks, the
gate through which gradients leave, the call, forward hooks, the gate through which they enter,
hooks on the result's gradient function. Hooks get the module itself, whatever runs in its place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.utils.hooks import BackwardHook

from fxpass.capture.modules import has_global_hooks, has_hooks

__all__ = ["call_with_hooks", "has_global_hooks", "has_hooks"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def call_with_hooks(
    module: nn.Module, forward: Callable[..., Any], args: Args, kwargs: Kwargs
) -> Any:
    """Calls `forward` as `module(*args, **kwargs)` would call the module's forward."""
    if not (has_hooks(module) or has_global_hooks()):
        return forward(*args, **kwargs)
    call = _HookedCall(module, args, kwargs)
    try:
        return call.run(forward)
    except Exception:
        call.run_skipped_hooks()
        raise


class _HookedCall:
    """One call; it remembers the result so far and which forward hooks have begun."""

    def __init__(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        self.module, self.args, self.kwargs = module, args, kwargs
        self.result: Any = None
        self.begun: set[int] = set()

    def run(self, forward: Callable[..., Any]) -> Any:
        gradient_hooks, full_hooks = self._backward_hooks()
        pre_gradient_hooks = self.module._get_backward_pre_hooks()
        self._run_pre_hooks()
        gate = None
        if full_hooks or pre_gradient_hooks:
            gate = BackwardHook(self.module, full_hooks, pre_gradient_hooks)
            self.args = gate.setup_input_hook(self.args)
        self.result = forward(*self.args, **self.kwargs)
        for hook_id, hook, with_kwargs, _ in self._forward_hooks():
            self.begun.add(hook_id)
            self._run_forward_hook(hook, with_kwargs)
        if gate is not None:
            if not isinstance(self.result, (Tensor, tuple)):
                warnings.warn(
                    "For backward hooks to be called, module output should be a Tensor or a tuple"
                    f" of Tensors but received {type(self.result)}",
                    stacklevel=3,
                )
            self.result = gate.setup_output_hook(self.result)
        if gradient_hooks:
            self._attach(gradient_hooks)
        return self.result

    def run_skipped_hooks(self) -> None:
        """After an error: the hooks that want to be called in any case and were not yet."""
        for hook_id, hook, with_kwargs, is_global in self._forward_hooks(only_always=True):
            if hook_id in self.begun:
                continue
            try:
                # A global hook gets no keyword arguments here: so does torch.
                self._run_forward_hook(hook, with_kwargs and not is_global)
            except Exception as error:  # the first error is the one to be raised.
                kind = "global module" if is_global else "module"
                warnings.warn(
                    f"{kind} forward hook with ``always_call=True`` raised an exception that was"
                    f" silenced as another error was raised in forward: {error}",
                    stacklevel=3,
                )

    def _run_pre_hooks(self) -> None:
        module = self.module
        with_kwargs = module._forward_pre_hooks_with_kwargs
        hooks = (*nn_module._global_forward_pre_hooks.items(), *module._forward_pre_hooks.items())
        for hook_id, hook in hooks:
            if hook_id not in with_kwargs:
                replaced = hook(module, self.args)
                if replaced is not None:
                    self.args = replaced if isinstance(replaced, tuple) else (replaced,)
                continue
            replaced = hook(module, self.args, self.kwargs)
            if replaced is None:
                continue
            if not (isinstance(replaced, tuple) and len(replaced) == 2):
                raise RuntimeError(
                    "forward pre-hook must return None or a tuple of (new_args, new_kwargs),"
                    f" but got {replaced}."
                )
            self.args, self.kwargs = replaced

    def _run_forward_hook(self, hook: Callable[..., Any], with_kwargs: bool) -> None:
        given = (self.args, self.kwargs) if with_kwargs else (self.args,)
        replaced = hook(self.module, *given, self.result)
        if replaced is not None:
            self.result = replaced

    def _forward_hooks(
        self, only_always: bool = False
    ) -> Iterator[tuple[int, Callable[..., Any], bool, bool]]:
        """(id, hook, whether it takes kwargs, whether it is global), in the order of calling."""
        module = self.module
        with_kwargs = {
            *module._forward_hooks_with_kwargs,
            *nn_module._global_forward_hooks_with_kwargs,
        }
        own, everywhere = module._forward_hooks, nn_module._global_forward_hooks
        always = module._forward_hooks_always_called
        always_everywhere = nn_module._global_forward_hooks_always_called
        for hook_id, hook in list(everywhere.items()):
            if not only_always or hook_id in always_everywhere:
                yield hook_id, hook, hook_id in with_kwargs, True
        for hook_id, hook in list(own.items()):
            if not only_always or hook_id in always:
                yield hook_id, hook, hook_id in with_kwargs, False

    def _backward_hooks(self) -> tuple[list[Callable[..., Any]], list[Callable[..., Any]]]:
        """The backward hooks of the old kind, on the gradient function, and the full ones."""
        full, old = self.module._get_backward_hooks()
        return old, full

    def _attach(self, hooks: list[Callable[..., Any]]) -> None:
        first = self.result
        while not isinstance(first, Tensor):
            if isinstance(first, dict):
                first = next(v for v in first.values() if isinstance(v, Tensor))
            else:
                first = first[0]
        if first.grad_fn is not None:
            for hook in hooks:
                first.grad_fn.register_hook(nn_module._WrappedHook(hook, self.module))
            self.module._maybe_warn_non_full_backward_hook(self.args, self.result, first.grad_fn)
