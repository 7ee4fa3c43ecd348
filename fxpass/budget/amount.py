"""A memory budget as the user gives it -> bytes."""

from __future__ import annotations

import re

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_FORM = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]+)\s*")
_EXPECTED = (
    'bytes (an int), a string ("300MB" is 3e8 bytes, "1.5GiB" is 1.5 * 2**30), or a fraction of '
    "the predicted peak of eager (a float in (0, 1])"
)


def budget_bytes(budget: int | float | str, eager_peak_bytes: int) -> int:
    """The budget in bytes; raises TypeError or ValueError if it cannot be meant."""
    if isinstance(budget, bool) or not isinstance(budget, (int, float, str)):
        raise TypeError(f"expected memory_budget to be {_EXPECTED}, got {type(budget).__name__}")
    found = _FORM.fullmatch(budget) if isinstance(budget, str) else None
    if found is not None and found[2].upper() in _UNITS:
        amount = float(found[1]) * _UNITS[found[2].upper()]
    elif isinstance(budget, float) and 0 < budget <= 1:
        amount = budget * eager_peak_bytes
    elif isinstance(budget, int):
        amount = budget
    else:
        raise ValueError(f"expected memory_budget to be {_EXPECTED}, got {budget!r}")
    if amount < 1:
        raise ValueError(f"expected memory_budget to be at least one byte, got {budget!r}")
    return int(amount)
