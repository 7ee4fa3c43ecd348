"""What stands in `p.grad` for a gradient that was used and freed: a tensor without memory.

None would not do: `clip_grad_norm_`, `GradScaler.unscale_` and a second backward take None for a
parameter without a gradient and silently go on. This has the gradient's shape, strides, dtype and
device, and every operation on it raises an error that says where the gradient went: torch's
dispatcher asks `__torch_dispatch__`, whether Python, C++ or autograd calls.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_ACCUMULATES = (_aten.add_.Tensor, _aten.add.Tensor)
# These ask no dispatcher, and would give away an address that is not there.
_GIVES_MEMORY_AWAY = (Tensor.data_ptr, Tensor.__reduce_ex__, Tensor.__dlpack__)

WAYS_OUT = (
    "call .remove() on what fxpass.optim.in_backward returned, and train with the plain loop, if"
    " gradients are needed together: clipping by norm or value, torch.amp.GradScaler, accumulation,"
    " DistributedDataParallel"
)


class FreedGradient(Tensor):
    """Stands for the freed gradient of `parameter`; see the module."""

    _parameter: weakref.ref[Tensor]
    _name: str
    _was_sparse: bool

    @staticmethod
    def __new__(cls: Any, form: Tensor, parameter: Tensor, name: str) -> FreedGradient:
        # A sparse gradient has no strides: its stand-in has the parameter's.
        strides = (form if form.layout == torch.strided else parameter).stride()
        freed = Tensor._make_wrapper_subclass(
            cls,
            form.shape,
            strides=strides,
            dtype=form.dtype,
            device=parameter.device,
            storage_size=0,
        )
        freed._parameter, freed._name = weakref.ref(parameter), name
        freed._was_sparse = form.layout != torch.strided
        return freed

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Gives what needs no memory (shape, dtype); names the reason for all that fails."""
        freed = next((a for a in args if isinstance(a, FreedGradient)), None)
        if freed is not None and func in _GIVES_MEMORY_AWAY:
            raise freed._error(func.__name__)
        try:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        except FreedGradientError:
            raise
        except Exception as error:
            if freed is None:
                raise
            raise freed._error(getattr(func, "__name__", str(func))) from error

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Raises, but for `zero_grad(set_to_none=False)` and the conversions of `module.to()`."""
        if func is _aten.zero_.default:
            return args[0]._make_zeros()
        if func is _aten._foreach_zero_.default:
            for gradient in args[0]:
                gradient.zero_()
            return None
        if func is _aten._to_copy.default:
            return args[0]._converted(**(kwargs or {}))
        freed = next(a for a in _flat((args, kwargs)) if isinstance(a, FreedGradient))
        raise freed._error(str(func), accumulates=func in _ACCUMULATES and args[0] is freed)

    def _make_zeros(self) -> Tensor:
        """`zero_grad(set_to_none=False)`: the parameter's gradient is memory again, all zero."""
        parameter = self._parameter()
        if parameter is None or parameter.grad is not self or self._was_sparse:
            raise self._error("zero_")
        zeros = torch.empty_strided(self.shape, self.stride(), dtype=self.dtype, device=self.device)
        parameter.grad = zeros.zero_()
        return self

    def _converted(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: Any
    ) -> Tensor:
        parameter = self._parameter()
        if parameter is None or (device or self.device) != self.device or self._was_sparse:
            raise self._error("to")
        # Meta tensors have a form and no memory.
        form = torch.empty_strided(
            self.shape, self.stride(), dtype=dtype or self.dtype, device="meta"
        )
        return FreedGradient(form, parameter, self._name)

    def _error(self, operation: str, accumulates: bool = False) -> FreedGradientError:
        happened = (
            "A second gradient came: call optimizer.zero_grad() between optimizer.step() and the"
            " next backward(), and backward() once a step. Else"
            if accumulates
            else f"{operation} needs it:"
        )
        return FreedGradientError(
            f"the gradient of {self._name} is gone: fxpass.optim.in_backward has updated the"
            f" parameter with it inside backward() and freed it. {happened} {WAYS_OUT}"
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"<the freed gradient of {self._name}>"


class FreedGradientError(RuntimeError):
    """A gradient was asked for that is freed."""


def _flat(tree: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(tree)
