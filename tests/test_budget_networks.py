"""Random networks under the smallest memory budget for which a plan is found: eager's bits."""

import pytest
from hypothesis import event, given, settings
from strategies import networks
from test_properties import PROFILE, explained, run_all

import fxpass
from fxpass._oracle import compare


def smallest(model, inputs):
    """The model under the smallest budget."""
    try:
        return fxpass.compile(model, inputs, memory_budget=1)
    except fxpass.BudgetError as error:
        try:
            return fxpass.compile(model, inputs, memory_budget=error.smallest_bytes)
        except fxpass.BudgetError:  # measured again, some times are others
            return fxpass.compile(model, inputs, memory_budget=2 * error.smallest_bytes)
    except fxpass.TraceError:
        return fxpass.compile(model, inputs)


@settings(PROFILE, max_examples=30)
@given(networks())
@pytest.mark.filterwarnings("ignore")
def test_networks_under_the_smallest_budget_equal_eager(network):
    def compiled(model, inputs):
        try:
            made = smallest(model, inputs)
        except Exception:
            with pytest.raises(Exception, match=r"."):
                model(*inputs)  # it was eager that raised
            return fxpass.compile(model, inputs)
        event("has a plan" if made.plan.prediction else "is in parts")
        return made

    first, found = run_all(network, compiled)
    assert not compare(first, found), explained(network, first, found)
