"""`Plan`: a printable, serialisable record of the recipe chosen for every saved value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any


class Recipe(StrEnum):
    """How a saved value is restored when backward asks for it."""

    DENSE = "dense"
    """The tensor itself is kept, as eager does."""
    MASK = "mask"
    """One bit an element, which is all that backward reads of it."""
    BITMAP = "bitmap"
    """One bit an element, and the non-zero values."""
    CODE = "code"
    """The place of the maximum in its window, a few bits an output."""
    AFFINE = "affine"
    """Computed again from the batch norm's own input and its per-channel vectors."""
    RERUN = "re-run"
    """The op again, on inputs that are kept or restored themselves."""
    PAGE = "page"
    """In a file."""
    NOTHING = "nothing"
    """Backward reads no element of it."""


@dataclass(frozen=True)
class Choice:
    """The recipe of one saved value.

    Attributes:
        value: name of the value's node in the graph.
        op: what computes it, and the module path if a module does: "relu features.1".
        savers: what saves it for backward, in the same form.
        recipe: how it is kept.
        reason: why it is kept so, or why nothing cheaper was possible.
        ops: the names of the nodes that compute and save it.
        fixed: the value was asked to stay dense, and `ops` to be eager's.
        serves: of a value that is run again: for how many readers each restoration of a backward
            holds it, the first one first. One after those holds it for all that are left.

    """

    value: str
    op: str
    savers: tuple[str, ...]
    recipe: Recipe
    reason: str = ""
    ops: tuple[str, ...] = ()
    fixed: bool = False
    serves: tuple[int, ...] = ()

    def dense(self) -> Choice:
        """The value stays dense, and the ops that compute and save it are eager's own."""
        return replace(self, recipe=Recipe.DENSE, reason="asked to be dense", fixed=True)


@dataclass(frozen=True)
class Prediction:
    """What a step takes by a plan that was made for a memory budget, told before it runs.

    Bytes as the README defines them: above what is live when the step begins. Seconds: the sum of
    what each op took when it was measured alone; compare them with one another. `in_backward`:
    parameters were updated inside backward (`fxpass.optim.in_backward`) when the plan was made, and
    it counts on that; so do eager's figures. `gap`: of a plan that a solver chose, how far the time
    of its re-runs may be from the least that its last program allows, over that time.
    """

    memory_budget: int
    peak_bytes: int
    saved_bytes: int
    seconds: float
    eager_peak_bytes: int
    eager_saved_bytes: int
    eager_seconds: float
    in_backward: bool = False
    gap: float | None = None

    def __str__(self) -> str:
        mib = 2.0**20
        return (
            f"budget {self.memory_budget / mib:.1f} MiB: peak {self.peak_bytes / mib:.1f} MiB,"
            f" saved {self.saved_bytes / mib:.1f} MiB, {self.seconds:.3g} s; eager"
            f" {self.eager_peak_bytes / mib:.1f} MiB, {self.eager_saved_bytes / mib:.1f} MiB,"
            f" {self.eager_seconds:.3g} s"
            f"{'; parameters are updated inside backward' if self.in_backward else ''}"
            f"{'' if self.gap is None else f'; gap of the solution {self.gap:.1%}'}"
        )


@dataclass(frozen=True)
class Plan:
    """The choices for one graph, in the order of its nodes.

    The plan of a compiled model has those of the parts that are compiled on their own too: a value
    of the part at `path` is named "path:value".

    Attributes:
        choices: one for each saved value.
        prediction: of a plan that was made for a memory budget.

    """

    choices: tuple[Choice, ...] = ()
    prediction: Prediction | None = None
    _by_value: dict[str, Recipe] = field(init=False, repr=False, compare=False)
    _serves: dict[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_serves", {c.value: c.serves for c in self.choices})
        object.__setattr__(self, "_by_value", {c.value: c.recipe for c in self.choices})

    def __iter__(self) -> Iterator[Choice]:
        return iter(self.choices)

    def __len__(self) -> int:
        return len(self.choices)

    def recipe(self, value: str) -> Recipe:
        """The recipe of the value computed by the node of this name."""
        return self._by_value.get(value, Recipe.DENSE)

    def restores(self, value: str) -> bool:
        """Whether the value computed by the node of this name is made again from others."""
        return self.recipe(value) in (Recipe.AFFINE, Recipe.RERUN)

    def serves(self, value: str) -> tuple[int, ...]:
        """For how many readers each restoration of the value holds it; empty: one for all."""
        return self._serves.get(value, ())

    def keeps(self, value: str) -> bool:
        """Whether the value is one of those from which others are made again."""
        return self._by_value.get(value) in (Recipe.DENSE, Recipe.BITMAP, Recipe.PAGE)

    def with_dense(self, *values: str) -> Plan:
        """The plan with these values kept dense, for `fxpass.compile(model, plan=...)`.

        The ops that compute and save such a value are then left as eager has them.

        Raises:
            ValueError: the plan knows no value of that name.

        """
        self.require(values)
        return Plan(tuple(c.dense() if c.value in values else c for c in self.choices))

    def predicted(self, prediction: Prediction) -> Plan:
        """The plan with what a step by it takes."""
        return replace(self, prediction=prediction)

    @property
    def predicted_peak_bytes(self) -> int | None:
        """The most bytes live in a step, above its start; None without a memory budget."""
        return None if self.prediction is None else self.prediction.peak_bytes

    @property
    def predicted_seconds(self) -> float | None:
        """What a step takes; None without a memory budget."""
        return None if self.prediction is None else self.prediction.seconds

    def require(self, values: Iterable[str]) -> None:
        """Raises ValueError unless the plan has all these values."""
        unknown = [value for value in values if value not in self._by_value]
        if unknown:
            raise ValueError(
                f"expected values of the plan ({', '.join(self._by_value) or 'it has none'}),"
                f" got {', '.join(unknown)}"
            )

    def parts(self) -> set[str]:
        """The paths of the modules whose graphs the values are of; "" for the model itself."""
        return {value.rpartition(":")[0] for value in self._by_value}

    def part(self, path: str) -> Plan:
        """The plan of the graph of the module at `path`."""
        named = ((c, *c.value.rpartition(":")) for c in self.choices)
        choices = tuple(replace(c, value=value) for c, of, _, value in named if of == path)
        return Plan(choices, self.prediction)

    def at(self, path: str) -> Plan:
        """The plan of the graph of the module at `path` as one of the whole model."""
        choices = tuple(replace(c, value=key(path, c.value)) for c in self.choices)
        return Plan(choices, self.prediction)

    def __reduce__(self) -> Any:
        return Plan.from_json, (self.to_json(),)

    def to_json(self) -> str:
        """The plan as JSON; `from_json` reads it back."""
        document: dict[str, Any] = {"version": 1, "choices": [asdict(c) for c in self.choices]}
        if self.prediction is not None:
            document["prediction"] = asdict(self.prediction)
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote; raises ValueError if the text is something else."""
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("version") != 1:
            raise ValueError("expected a plan of version 1, as Plan.to_json() writes it")
        prediction = document.get("prediction")
        return cls(
            tuple(_choice(**c) for c in document["choices"]),
            None if prediction is None else Prediction(**prediction),
        )

    def __str__(self) -> str:
        header = ("value", "computed by", "saved by", "kept as", "because")
        if not self.choices:
            return "nothing is saved for backward"
        rows = [(c.value, c.op, ", ".join(c.savers), c.recipe, c.reason) for c in self.choices]
        table = _columns([header, *rows])
        return table if self.prediction is None else f"{self.prediction}\n{table}"


def key(path: str, value: str) -> str:
    """The name of a value in the plan of a model; `path`: of the module whose graph it is in."""
    return f"{path}:{value}" if path else value


def _choice(
    value: str,
    op: str,
    savers: Iterable[str],
    recipe: str,
    reason: str = "",
    ops: Iterable[str] = (),
    fixed: bool = False,
    serves: Iterable[int] = (),
) -> Choice:
    return Choice(
        value, op, tuple(savers), Recipe(recipe), reason, tuple(ops), fixed, tuple(serves)
    )


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)
    return "\n".join(line.rstrip() for line in lines)
