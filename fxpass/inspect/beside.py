"""What a compiled model keeps, beside the tensors that eager keeps.

Buffer by buffer: a whole tensor belongs to the row of the same size and the same value; a payload
(bits, codes, values) to the largest row of its value that no whole tensor stands for. Values that
lie in one storage are one value here, and so are those of ops that became one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

import torch

from fxpass.inspect.buffers import Buffer, buffers_of, live_at
from fxpass.inspect.groups import Groups
from fxpass.inspect.rows import CALLER, Rows, SavedTensor
from fxpass.inspect.run import Watched
from fxpass.inspect.watcher import Key, Part
from fxpass.memory import Use
from fxpass.plan import Recipe


def lay_beside(
    rows: Rows, watched: Watched, recipes: Mapping[Key, Recipe]
) -> tuple[SavedTensor, ...]:
    """The rows of eager with what the watched, compiled run keeps in their place.

    `recipes` is what the plans say of each value.
    """
    return _Beside(rows, watched, recipes).tensors()


class _Beside:
    def __init__(self, rows: Rows, watched: Watched, recipes: Mapping[Key, Recipe]) -> None:
        self.rows, self.watched = rows, watched
        self.parts = watched.watcher.parts
        self.groups = Groups(rows.aliases)
        for part in self.parts:
            self.groups.join(part.keys)
        self.of_group: dict[Key, list[int]] = defaultdict(list)
        for row, key in enumerate(rows.keys):
            self.of_group[self.groups.of(key)].append(row)
        self.kept = [0] * len(rows.keys)
        self.seconds = [0.0] * len(rows.keys)
        self.unexplained = Counter(rows.unexplained)
        self.whole: set[int] = set()  # rows that are there as they are in eager
        self.recipes = self._recipes(recipes)

    def tensors(self) -> tuple[SavedTensor, ...]:
        more = []
        live = live_at(buffers_of(self.watched.events), len(self.watched.events))
        # Whole tensors first: what is left of a value then is what has a payload.
        for buffer in sorted(live, key=lambda b: (b.use is not Use.TENSOR, -b.bytes)):
            part = self.parts[buffer.part]
            if self._is_unexplained(buffer, part):
                continue
            row = self._row_of_tensor(buffer, part) if buffer.use is Use.TENSOR else None
            if row is not None:
                self.whole.add(row)
            else:
                row = self._row_of_payload(part, buffer.use)
            if row is None:
                more.append(_addition(part, buffer.bytes))
            else:
                self.kept[row] += buffer.bytes
        for number, seconds in self.watched.restored:
            row = self._row_of_payload(self.parts[number], Use.VALUE)
            if row is not None:
                self.seconds[row] += seconds
        return (*(self._result(row) for row in range(len(self.kept))), *more)

    def _is_unexplained(self, buffer: Buffer, part: Part) -> bool:
        """Whether nobody knows who keeps it, in eager neither."""
        same = part.key, buffer.bytes
        if buffer.part == 0:
            return True
        if buffer.use is not Use.TENSOR or self.unexplained[same] == 0:
            return False
        self.unexplained[same] -= 1
        return True

    def _rows_of(self, part: Part) -> list[int]:
        """The rows of a part's values, those left to be found."""
        found = self.of_group[self.groups.of(part.key)]
        return [row for row in found if row not in self.whole]

    def _row_of_tensor(self, buffer: Buffer, part: Part) -> int | None:
        returned = buffer.address in self.watched.output
        for row in self._rows_of(part):
            tensor = self.rows.tensors[row]
            if tensor.dense_bytes == buffer.bytes and (CALLER in tensor.savers) == returned:
                return row
        return None

    def _row_of_payload(self, part: Part, use: Use) -> int | None:
        """The largest row: of the part's value, or of one that is never there because of it."""
        left = self._rows_of(part) or self.of_group[self.groups.of(part.key)]
        for key in (part.key, *part.keys) if use is Use.VALUE else part.keys:
            storage = self.rows.aliases.of(key)
            left_of_it = [r for r in left if self.rows.aliases.of(self.rows.keys[r]) == storage]
            if left_of_it:
                left = left_of_it
                break
        return max(left, key=self._size, default=None)

    def _size(self, row: int) -> tuple[bool, int]:
        # The indices of a max pool are larger than its result.
        tensor = self.rows.tensors[row]
        return tensor.dtype.is_floating_point, tensor.dense_bytes

    def _result(self, row: int) -> SavedTensor:
        """With the recipe that was used, where it is another than the plan's."""
        recipe = self.recipes[row]
        if row in self.whole:
            recipe = Recipe.DENSE
        elif self.kept[row] == 0 and recipe in (Recipe.DENSE, Recipe.BITMAP, Recipe.MASK):
            recipe = Recipe.NOTHING
        return replace(
            self.rows.tensors[row],
            recipe=recipe.value,
            kept_bytes=self.kept[row],
            restore_seconds=self.seconds[row],
        )

    def _recipes(self, recipes: Mapping[Key, Recipe]) -> list[Recipe]:
        """What the plan says of each row's storage: of the last value in it that it compresses."""
        of_storage: dict[Key, Recipe] = {}
        for key, recipe in recipes.items():
            root = self.rows.aliases.of(key)
            if recipe not in (Recipe.DENSE, Recipe.NOTHING) or root not in of_storage:
                of_storage[root] = recipe
        found = [of_storage.get(self.rows.aliases.of(key)) for key in self.rows.keys]
        return [
            # Only a max pool keeps integers: its indices.
            Recipe.CODE if not tensor.dtype.is_floating_point else recipe or Recipe.NOTHING
            for tensor, recipe in zip(self.rows.tensors, found, strict=True)
        ]


def _addition(part: Part, size: int) -> SavedTensor:
    """What the compiled model keeps of a value of which eager keeps nothing."""
    form = (size,), torch.uint8
    return SavedTensor(part.module, part.op, ("fxpass",), *form, 0, "addition", size)
