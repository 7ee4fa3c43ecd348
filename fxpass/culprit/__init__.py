"""Which op's rewriting is to blame where a compiled model differs from the original."""

from fxpass.culprit.advice import explained
from fxpass.culprit.bisect import bisect

__all__ = ["bisect", "explained"]
