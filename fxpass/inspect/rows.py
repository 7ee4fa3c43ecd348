"""What eager keeps for backward, a row a tensor."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fxpass.inspect.buffers import Buffer, buffers_of, live_at
from fxpass.inspect.groups import Groups, aliases
from fxpass.inspect.run import Watched
from fxpass.inspect.watcher import Key
from fxpass.plan import Recipe

CALLER = "the caller"


@dataclass(frozen=True)
class SavedTensor:
    """A tensor that eager keeps for backward, and what is kept in its place.

    Attributes:
        module: the path of the module that computes it; empty for the model itself.
        op: the op that computes it: the class of a module, or the name of a function.
        savers: the autograd nodes that keep it in eager, each with its module; "the caller" if the
            model returned it, "fxpass" for what only the compiled model keeps.
        shape: its sizes; of bytes (uint8) where nobody says what they are.
        dtype: likewise.
        dense_bytes: what eager keeps.
        recipe: how it is kept: a `Recipe`, or "addition" for what eager does not keep.
        kept_bytes: what is kept.
        restore_seconds: how long backward took to restore it.

    """

    module: str
    op: str
    savers: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    dense_bytes: int
    recipe: str
    kept_bytes: int
    restore_seconds: float = 0.0


@dataclass(frozen=True)
class Rows:
    """The rows of an eager run.

    Attributes:
        tensors: in the order in which the model computes them.
        keys: of each, the value in whose computation it was allocated.
        aliases: which values lie in one storage.
        unexplained: of the buffers that nobody was found to keep, value and size.

    """

    tensors: list[SavedTensor]
    keys: list[Key]
    aliases: Groups
    unexplained: Counter[tuple[Key, int]]


def eager_rows(watched: Watched) -> Rows:
    """A row for each buffer that an autograd node keeps or the caller holds."""
    parts = watched.watcher.parts
    buffers = buffers_of(watched.events)
    rows = Rows([], [], aliases(watched, buffers), Counter())
    kept = _kept_at(watched)
    for buffer in live_at(buffers, len(watched.events)):
        savers = list(kept.get(buffer.address, {}))
        if buffer.address in watched.output:
            savers.append(CALLER)
        part = parts[buffer.part]
        if not savers:
            rows.unexplained[part.key, buffer.bytes] += 1
            continue
        forms = [form for forms in kept.get(buffer.address, {}).values() for form in forms]
        shape, dtype = max(forms, key=_bytes_of, default=_form_of(watched, buffer))
        recipe, size = Recipe.DENSE.value, buffer.bytes
        rows.tensors.append(
            SavedTensor(part.module, part.op, tuple(savers), shape, dtype, size, recipe, size)
        )
        rows.keys.append(part.key)
    return rows


_Form = tuple[tuple[int, ...], torch.dtype]


def _bytes_of(form: _Form) -> int:
    return torch.Size(form[0]).numel() * form[1].itemsize


def _kept_at(watched: Watched) -> dict[int, dict[str, list[_Form]]]:
    """For each address, who keeps tensors there, and their forms."""
    part_of = _part_of_node(watched)
    found: dict[int, dict[str, list[_Form]]] = defaultdict(lambda: defaultdict(list))
    for saver in watched.savers:
        module = watched.watcher.parts[part_of(saver.sequence)].module
        name = f"{saver.node} {module}".rstrip()
        found[saver.address][name].append((saver.shape, saver.dtype))
    return found


def _part_of_node(watched: Watched) -> Callable[[int], int]:
    """From the sequence number of an autograd node to the part that made it, 0 if none did."""
    ends: list[int] = []
    numbers: list[int] = []
    for result in watched.watcher.results:
        if result.node > (ends[-1] if ends else -1):
            ends.append(result.node)
            numbers.append(result.part)

    def part(sequence: int) -> int:
        at = bisect_left(ends, sequence)
        return numbers[at] if at < len(numbers) else 0

    return part


def _form_of(watched: Watched, buffer: Buffer) -> _Form:
    for result in reversed(watched.watcher.results):
        if result.address == buffer.address:
            return result.shape, result.dtype
    return (buffer.bytes,), torch.uint8
