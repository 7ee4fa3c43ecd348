"""Running a model without leaving a trace: what a training loop changes is put back.

Snapshot and restored in place: parameters, `.grad`, buffers, tensors and plain values (numbers,
strings) among the modules' attributes, training flags, the inputs' bytes, and the RNG of torch and
of Python. Bytes are restored storage by storage, so views and shared tensors keep their ties, and
without a change of version. An optimizer of `fxpass.optim.in_backward` updates nothing meanwhile.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxpass.optim._hooks import paused

_PLAIN = (bool, int, float, str, type(None))
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)


class preserved:
    """Puts everything that a training loop changes back as it was when the block began."""

    def __init__(self, module: nn.Module | None, inputs: Any = ()) -> None:
        self._modules = list(module.modules()) if module is not None else []
        self._inputs = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]

    def __enter__(self) -> None:
        self._rng = torch.get_rng_state(), random.getstate()
        self._members = [
            (m, dict(m._parameters), dict(m._buffers), plain_attributes(m)) for m in self._modules
        ]
        tensors = {id(t): t for t in self._tensors()}.values()
        self._aliases = [(t, t.data, t.grad, t.requires_grad) for t in tensors if t.is_leaf]
        storages = {
            s.data_ptr(): s
            for t in itertools.chain(tensors, (t.grad for t in tensors if t.is_leaf))
            if t is not None and t.layout == torch.strided and (s := t.untyped_storage()).nbytes()
        }
        self._bytes = [(storage, storage.clone()) for storage in storages.values()]
        self._paused = paused(tensors)
        self._paused.__enter__()

    def __exit__(self, *_: object) -> None:
        self._paused.__exit__(None, None, None)
        for module, parameters, buffers, plain in self._members:
            _replace(module._parameters, parameters)
            _replace(module._buffers, buffers)
            module.__dict__.update(plain)
        for tensor, data, grad, requires_grad in self._aliases:
            tensor.requires_grad_(requires_grad)
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                tensor.data = data
            tensor.grad = grad
        for storage, saved in self._bytes:
            storage.copy_(saved)
        torch.set_rng_state(self._rng[0])
        random.setstate(self._rng[1])

    def _tensors(self) -> Iterator[Tensor]:
        yield from self._inputs
        for module in self._modules:
            held = (module._parameters, module._buffers, _own_attributes(module))
            leaves = pytree.tree_leaves(held)
            yield from (leaf for leaf in leaves if isinstance(leaf, Tensor))


def _own_attributes(module: nn.Module) -> dict[str, Any]:
    return {k: value for k, value in module.__dict__.items() if k not in _OF_EVERY_MODULE}


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of its own that are numbers, strings or None, and `training`."""
    attributes = _own_attributes(module) | {"training": module.training}
    return {name: value for name, value in attributes.items() if isinstance(value, _PLAIN)}


def _replace(members: dict[str, Any], saved: dict[str, Any]) -> None:
    # Written only if it changed: a compiled module may watch for replaced members.
    if members.keys() != saved.keys() or any(members[name] is not saved[name] for name in saved):
        members.clear()
        members.update(saved)
