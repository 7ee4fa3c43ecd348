"""Gradients that arrive: of any values, in any layout."""

from __future__ import annotations

from _bits import LAYOUTS, Upstream
from hypothesis import strategies as st
from strategies_values import FILLS

_LAYOUTS = st.sampled_from(LAYOUTS)
upstreams = st.builds(Upstream, st.sampled_from(FILLS), _LAYOUTS, st.integers(0, 9))
# For layers, which sum what arrives: a few numbers that are none make all of the sums so.
_KINDS = st.sampled_from(["normal", "normal", "specials", "mostly_zero"])
upstreams_of_layers = st.builds(Upstream, _KINDS, _LAYOUTS)
