"""How many of the bytes that eager saves are saved by parts that stay uncompiled."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as pytree

from fxpass._preserved import preserved
from fxpass.capture import is_leaf


@dataclass(frozen=True)
class Share:
    """The bytes saved for backward in one eager forward, and those of uncompiled parts."""

    uncompiled_bytes: int
    saved_bytes: int

    @property
    def fraction(self) -> float:
        """Uncompiled bytes / saved bytes; 0 if nothing is saved."""
        return self.uncompiled_bytes / self.saved_bytes if self.saved_bytes else 0.0


def uncompiled_share(
    model: nn.Module, lossy: Collection[nn.Module], args: tuple[Any, ...]
) -> Share:
    """Measures one eager forward; parameters, buffers and RNG are left as found.

    Counted are storages, each once, apart from those of the parameters, the buffers and `args`. A
    storage is uncompiled if an op saves it that runs in the forward of a module in `lossy`, or in a
    single torch module (an nn.ReLU, say) called there: compiled by itself, such a module has
    nothing to connect to. Its containers are compiled, and count as such.
    """
    held = [*model.parameters(), *model.buffers(), *pytree.tree_leaves(args)]
    known = {_address(t) for t in held if isinstance(t, Tensor)}
    saved: dict[int, torch.UntypedStorage] = {}
    uncompiled: set[int] = set()
    inside: list[bool] = [False]

    def note(tensor: Tensor) -> Tensor:
        address = _address(tensor)
        if address is not None and address not in known:
            saved[address] = tensor.untyped_storage()  # Keeps the address from being used again.
            if inside[-1]:
                uncompiled.add(address)
        return tensor

    def enter(module: nn.Module, _: Any) -> None:
        inside.append(module in lossy or (inside[-1] and is_leaf(module)))

    def leave(module: nn.Module, _: Any, result: Any) -> None:
        inside.pop()

    with (
        preserved(model, args),
        _hooks_on_all(model, enter, leave),
        torch.enable_grad(),
        saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        model(*args)
    sizes = {address: storage.nbytes() for address, storage in saved.items()}
    return Share(sum(sizes[address] for address in uncompiled), sum(sizes.values()))


@contextmanager
def _hooks_on_all(model: nn.Module, enter: Any, leave: Any) -> Iterator[None]:
    handles = []
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            handles.append(module.register_forward_pre_hook(enter, prepend=True))
            handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _address(tensor: Tensor) -> int | None:
    """Where a tensor's storage begins; None if it has none of its own."""
    if tensor.layout != torch.strided or type(tensor) not in (Tensor, nn.Parameter):
        return None
    return tensor.untyped_storage().data_ptr()
