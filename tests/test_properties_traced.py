"""The random networks of the property tests are rewritten: untraced ones would prove nothing."""

import contextlib
import warnings

from strategies_network import build
from test_properties import drawn

import fxpass


def test_the_networks_are_traced():
    untraced = []
    for network in drawn(1000)[:100]:
        model, inputs = build(network)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with contextlib.suppress(Exception):  # some raise in eager
                fxpass.compile(model, example_inputs=inputs)
        untraced += [str(w.message) for w in caught if "own forward" in str(w.message)]
    assert untraced == []
