"""The promise, for random networks that were exported: what TorchScript loads equals eager."""

import os
import warnings

import pytest
import torch
from _exported import Loaded, exported
from hypothesis import event, given, settings
from strategies import networks
from strategies_network import Autocast, around_step, build, loss_of
from test_properties import COMMON, explained

import fxpass
from fxpass._oracle import Loop, compare, record
from fxpass.errors import ExportError

DEEP = os.environ.get("FXPASS_HYPOTHESIS") == "deep"
STEPS = 5  # TorchScript profiles the first calls and optimises for later ones


@settings(max_examples=2_000 if DEEP else 60, derandomize=not DEEP, **COMMON)
@given(networks())
def test_exported_networks_equal_eager(tmp_path_factory, network):
    torch.set_num_threads(network.threads)
    model, inputs = build(network)
    loop = Loop(STEPS, loss_of(network), around=around_step(network))
    eager = Autocast(model, network.autocast)
    first = record(eager, inputs, loop)
    if compare(first, record(eager, inputs, loop)):
        event("eager does not equal itself")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = fxpass.compile(model, inputs)
        if network.hooks:
            event("has hooks")
            with pytest.raises(ExportError, match="hooks"):
                exported(compiled, tmp_path_factory.mktemp("export"))
            return
        script = exported(compiled, tmp_path_factory.mktemp("export"))
    loaded = Loaded(script).train(network.training)
    found = record(Autocast(loaded, network.autocast), inputs, loop)
    if first.error is not None:
        event("raises")
        assert found.error is not None
        return
    assert not compare(first, found), explained(network, first, found)
