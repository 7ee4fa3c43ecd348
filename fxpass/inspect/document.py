"""A profile as plain data, for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxpass.inspect.profile import Profile


def as_document(profile: Profile) -> dict[str, Any]:
    """Everything in the profile; bytes and seconds are numbers, dtypes strings."""
    edges = [
        {**asdict(edge), "dtype": str(edge.dtype).removeprefix("torch.")} for edge in profile.edges
    ]
    return {
        "version": 1,
        "model": profile.model,
        "saved_bytes": profile.saved_bytes,
        "peak_bytes": profile.peak_bytes,
        "seconds": profile.seconds,
        "not_attributed_bytes": profile.not_attributed_bytes,
        "edges": edges,
        "timeline": asdict(profile.timeline),
        "eager": None if profile.eager is None else as_document(profile.eager),
    }
