"""Each parameter's update inside backward, as soon as its gradient is whole; then it is freed.

1. A hook on each parameter (`register_post_accumulate_grad_hook`) runs the optimizer's own `step`
   code on a group of that one parameter, and leaves a `FreedGradient` in `.grad`.
2. `optimizer.step()` ends the step. A pre-hook takes the stand-ins away, so that the optimizer's
   own code meets only gradients that were not used yet (a parameter added or unfrozen since has no
   hook); a post-hook puts them back. `step` itself is not replaced: closures, the users' hooks and
   learning rate schedulers see what they always see.
3. What the plain loop would have done differently is an error, in `_update` or in `_before_step`.

Why an update may come before backward is over: a parameter's AccumulateGrad node runs once a
backward, after every node that has an edge to it, and those are all that read the parameter with
its gradient required; so no node that saved it is still to run. One that saved it otherwise
(`weight.detach()`) is stopped by autograd's version check, as is a second backward over a retained
graph. A read of `weight.data` is not seen by that check, here as everywhere in autograd.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, optim
from torch.utils.hooks import RemovableHandle

from fxpass.optim._freed import WAYS_OUT, FreedGradient
from fxpass.optim._hooks import Hook, is_hooked
from fxpass.optim._hyperparameters import changed, copy_of
from fxpass.optim._per_parameter import (
    names_of,
    require_apart,
    require_exact,
    require_exact_gradient,
    require_known,
)
from fxpass.optim._step_one import order_states, step_one

Group = dict[str, Any]

_TORN = (
    "load the state of model and optimizer from before (load_state_dict), or decide before"
    " backward() whether to train on a batch"
)
_AFTER = "change it after step() or before backward()"


class _Updated(NamedTuple):
    """What `step()` must find as the update has left it."""

    name: str
    freed: FreedGradient
    version: int


def in_backward(optimizer: optim.Optimizer, *, per_parameter: bool = False) -> InBackward:
    """Makes `loss.backward()` apply each update and free its gradient: never all are alive.

    The loop stays `zero_grad(); loss.backward(); optimizer.step()`, once each a step. Weights, the
    optimizer's state and all else equal those of the same loop without this, to the last bit; but
    after backward() the weights are the new ones already, and `step()` only ends the step.

    Args:
        optimizer: one of torch.optim's that update each parameter from its own gradient and state
            alone, which are all but LBFGS; its parameters on the CPU.
        per_parameter: your word that an optimizer of another class does so too, keeps its state in
            `optimizer.state`, and writes to nothing that parameters have in common.

    Returns:
        A handle; `.remove()`, or the end of a `with` block, brings the plain behaviour back.

    Raises:
        TypeError: no optimizer; one of another class; options or parameters with which it is not
            exact (`differentiable`, `capturable`, parameters that are sharded or not on the CPU).
        ValueError: a parameter is updated inside backward already, or shares memory with another.

    In the training loop a RuntimeError is raised by whatever needs a freed gradient (clipping,
    GradScaler, accumulation, a second step(), DistributedDataParallel), and by step() if the
    weights, the gradients or the hyperparameters were changed since backward().

    """
    if not isinstance(optimizer, optim.Optimizer):
        raise TypeError(
            "fxpass.optim.in_backward: expected optimizer to be a torch.optim.Optimizer,"
            f" got {type(optimizer).__name__}"
        )
    require_known(optimizer, per_parameter)
    return InBackward(optimizer)


class InBackward:
    """The handle of `in_backward`."""

    # The optimizer's step hooks keep this alive, and a parameter's hook does not: an optimizer that
    # the user has dropped ends at once, and updates nothing behind its successor's back.
    def __init__(self, optimizer: optim.Optimizer) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._hooks: dict[Tensor, RemovableHandle] = {}
        self._updated: dict[Tensor, _Updated] = {}
        self._places: dict[Tensor, tuple[Group, str]] = {}
        self._used: list[tuple[Group, Group]] = []  # each group, and a copy as backward began
        self._states = 0  # how many parameters had a state as backward began
        self._hidden = self._removed = False
        require_exact(optimizer)
        require_apart(optimizer)
        self._hook(optimizer)
        self._before = optimizer.register_step_pre_hook(self._before_step)
        after = optimizer.register_step_post_hook(self._after_step)
        # The first to come after the step: the user's hooks meet a stand-in, and not None.
        optimizer._optimizer_step_post_hooks.move_to_end(after.id, last=False)  # type: ignore[attr-defined]
        load = optimizer.register_load_state_dict_pre_hook(self._before_load)
        self._of_steps = [self._before, after, load]

    def remove(self) -> None:
        """Brings the plain behaviour back; a step that has begun is ended by `optimizer.step()`."""
        self._removed = True
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()
        if not self._updated:
            for handle in self._of_steps:
                handle.remove()

    def __enter__(self) -> InBackward:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _hook(self, optimizer: optim.Optimizer) -> None:
        """Hooks every parameter that has no hook of this yet and can have one; or none of them."""
        names = names_of(optimizer)
        new = [p for p in names if p.requires_grad and p not in self._hooks]
        for parameter in new:
            if is_hooked(parameter):
                raise ValueError(
                    f"fxpass.optim.in_backward: {names[parameter][1]} is updated inside backward"
                    " already: call .remove() on the handle of the first in_backward"
                )
        hook = Hook(weakref.WeakMethod(self._update), self._optimizer)
        for parameter in new:
            self._hooks[parameter] = parameter.register_post_accumulate_grad_hook(hook)

    # ---- in backward ---------------------------------------------------------------------------

    def _update(self, parameter: Tensor) -> None:
        """Updates the parameter with its gradient, now whole, and frees that."""
        optimizer = self._optimizer()
        assert optimizer is not None, "the hook has asked"
        if self._hidden:
            self._forget()  # the last step() raised
        if not self._updated:
            self._begin(optimizer)
        if parameter not in self._places:
            return  # taken out of the optimizer's groups
        group, name = self._places[parameter]
        if parameter in self._updated:
            raise RuntimeError(
                f"{name} got a gradient again before optimizer.step(), and the update with the"
                " first one, which the plain loop would have dropped, was made inside backward():"
                f" {_TORN}"
            )
        gradient = parameter.grad
        if gradient is None:
            return  # another hook of the user's has taken it
        require_exact_gradient(group, gradient, name)
        try:
            step_one(optimizer, group, parameter)
        except Exception as error:
            done = f"{len(self._updated)} of {len(self._places)} parameters are updated already"
            error.add_note(f"fxpass.optim.in_backward: while updating {name}; {done}: {_TORN}")
            raise
        freed = FreedGradient(gradient, parameter, name)
        parameter.grad = freed
        self._updated[parameter] = _Updated(name, freed, parameter._version)

    def _begin(self, optimizer: optim.Optimizer) -> None:
        require_exact(optimizer)
        require_apart(optimizer)
        self._places = names_of(optimizer)
        for parameter in self._places:
            if isinstance(parameter.grad, FreedGradient):
                raise parameter.grad._error("backward()", accumulates=True)
        self._used = [(group, copy_of(group)) for group in optimizer.param_groups]
        self._states = len(optimizer.state)
        # The last to come before the step: the user's hooks meet a stand-in, and not None.
        optimizer._optimizer_step_pre_hooks.move_to_end(self._before.id)  # type: ignore[attr-defined]

    # ---- around step() -------------------------------------------------------------------------

    def _before_step(
        self, optimizer: optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._hide(optimizer)
            return None

        def and_hide() -> Any:  # the closure's backward comes first
            loss = closure()
            self._hide(optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": and_hide}
        return (args[0], and_hide, *args[2:]), kwargs

    def _hide(self, optimizer: optim.Optimizer) -> None:
        """Leaves the optimizer the gradients that were not used yet, if nothing has changed."""
        if self._hidden:
            self._put_back()  # the last step() raised
        if self._updated:
            self._require_unchanged(optimizer)
        for parameter, (_, name) in names_of(optimizer).items():
            if isinstance(parameter.grad, FreedGradient) and parameter not in self._updated:
                raise RuntimeError(
                    f"optimizer.step() was called again with the gradient of {name}, which was used"
                    " inside backward() and freed: call optimizer.zero_grad() and backward() before"
                    f" each step(); or {WAYS_OUT}"
                )
        for parameter in self._updated:
            parameter.grad = None
        self._hidden = True

    def _require_unchanged(self, optimizer: optim.Optimizer) -> None:
        """Raises if the plain loop, which updates only now, would use other values."""
        since = "between backward(), which has used it, and optimizer.step():"
        if next(reversed(optimizer._optimizer_step_pre_hooks)) != self._before.id:
            raise RuntimeError("a step pre-hook was registered after backward(): do it before")
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("optimizer.step() was called under autocast: call it outside of it")
        for parameter, (name, freed, version) in self._updated.items():
            if parameter.grad is not freed:
                raise RuntimeError(f"the gradient of {name} was cleared or set {since} {_TORN}")
            if parameter._version != version:
                raise RuntimeError(f"{name} was written to {since} {_AFTER}")
        for i, (group, used) in enumerate(self._used):
            if option := changed(group, used):
                raise RuntimeError(f"param_groups[{i}][{option!r}] was changed {since} {_AFTER}")

    def _after_step(self, optimizer: optim.Optimizer, *_: Any) -> None:
        if self._updated:
            order_states(optimizer, self._states)
        self._put_back()
        if self._removed:
            self.remove()
        else:
            self._hook(optimizer)

    def _put_back(self) -> None:
        for parameter, (_, freed, _) in self._updated.items():
            if parameter.grad is None:
                parameter.grad = freed
        self._forget()

    def _before_load(self, *_: Any) -> None:
        """A state from elsewhere: what was updated is no matter any more."""
        self._forget()

    def _forget(self) -> None:
        self._updated.clear()
        self._hidden = False
