"""Whether the native library fits the torch that is imported."""

from __future__ import annotations

import re


def check_torch(built_for: str, imported: str) -> None:
    """Raises an `ImportError` if a library built for one version of torch is to run in another.

    Torch keeps its C++ interface within a minor version; "+cpu" and the like change nothing of it.
    """
    if _minor(built_for) == _minor(imported):
        return
    raise ImportError(
        f"fxpass: built for torch {built_for}, whose C++ interface torch {imported} does not have. "
        f"Either `pip install torch=={built_for}`, or build fxpass for torch {imported} from its "
        "source: `pip install --no-build-isolation --no-deps .` in the repository"
    )


def _minor(version: str) -> list[str]:
    """["2", "13"] of "2.13.0+cpu"."""
    return re.findall(r"\d+", version)[:2]
