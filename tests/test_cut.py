"""The cheapest set of values to keep, against trying every set, on random graphs."""

from itertools import chain, combinations

import pytest
from _bits import examples
from hypothesis import example, given
from hypothesis import strategies as st

from fxpass.plan.cut import cheapest_to_keep


def is_there(value, inputs_of, kept):
    """Whether backward has a value: kept, or made of others that it has."""
    if value in kept:
        return True
    inputs = inputs_of.get(value)
    return inputs is not None and all(is_there(v, inputs_of, kept) for v in inputs)


def enough(kept, inputs_of, needed):
    return all(is_there(value, inputs_of, kept) for value in needed)


def every_set(values):
    return chain.from_iterable(combinations(values, n) for n in range(len(values) + 1))


def least_cost(inputs_of, cost, needed):
    """The cost of the cheapest set that is enough, found by trying all; None if there is none."""
    sets = (set(s) for s in every_set(list(cost)))
    costs = [sum(cost[v] for v in s) for s in sets if enough(s, inputs_of, needed)]
    return min(costs, default=None)


@st.composite
def graphs(draw):
    """(inputs_of, cost, needed): values 0 ... n - 1, each made of earlier ones or of nothing."""
    n = draw(st.integers(1, 9))
    inputs_of, cost = {}, {}
    for value in range(n):
        # Costs whose sums are exact and mostly differ; now and then equal ones.
        if draw(st.integers(0, 4)) or value == 0:
            cost[value] = float(draw(st.sampled_from([1, 2, 3, 5, 8, 13, 21, 0.5])))
        if value and draw(st.integers(0, 3)):
            earlier = st.integers(max(0, value - 4), value - 1)
            inputs_of[value] = draw(st.lists(earlier, min_size=1, max_size=3))
        else:
            cost.setdefault(value, 4.0)  # what cannot be made can be kept
    needed = draw(st.lists(st.integers(0, n - 1), max_size=n, unique=True))
    return inputs_of, cost, needed


@example(({1: [0]}, {0: 2.0, 1: 1.0}, [1]))
@example(({1: [0, 0]}, {0: 1.0, 1: 3.0}, [1]))
@example(({1: [0], 2: [0]}, {0: 3.0, 1: 2.0, 2: 2.0}, [1, 2]))
@examples(400)
@given(graphs())
def test_it_is_enough_and_nothing_is_cheaper(graph):
    inputs_of, cost, needed = graph
    kept = cheapest_to_keep(inputs_of, cost, needed)
    assert kept <= cost.keys(), "keeps what cannot be kept"
    assert enough(kept, inputs_of, needed), "some value that backward reads is missing"
    assert sum(cost[v] for v in kept) == least_cost(inputs_of, cost, needed)


@examples(100)
@given(graphs())
def test_nothing_is_kept_in_vain(graph):
    inputs_of, cost, needed = graph
    kept = cheapest_to_keep(inputs_of, cost, needed)
    for value in kept:
        assert not enough(kept - {value}, inputs_of, needed), f"{value} is not needed"


def test_nothing_is_needed():
    assert cheapest_to_keep({1: [0]}, {0: 1.0, 1: 1.0}, []) == set()


def test_a_value_made_of_nothing_need_not_be_kept():
    assert cheapest_to_keep({0: [], 1: [0]}, {0: 1.0, 1: 1.0}, [1]) == set()


def test_a_long_chain_costs_no_recursion():
    n = 5000
    inputs_of = {i: [i - 1] for i in range(1, n)}
    cost = {i: 1.0 + (i != n // 2) for i in range(n)}
    assert cheapest_to_keep(inputs_of, cost, [n - 1]) == {n // 2}


def test_a_dense_network_keeps_its_pieces():
    # cat i is made of all pieces so far, and costs their sum.
    pieces = [f"piece {i}" for i in range(6)]
    inputs_of = {f"cat {i}": pieces[:i] for i in range(2, 7)}
    cost = {**dict.fromkeys(pieces, 1.0), **{f"cat {i}": float(i) for i in range(2, 7)}}
    assert cheapest_to_keep(inputs_of, cost, list(inputs_of)) == set(pieces)


def test_one_needed_sum_is_kept_itself():
    assert cheapest_to_keep({"c": ["a", "b"]}, {"a": 2.0, "b": 2.0, "c": 3.0}, ["c"]) == {"c"}
    both = cheapest_to_keep({"c": ["a", "b"]}, {"a": 2.0, "b": 2.0, "c": 3.0}, ["c", "a"])
    assert both == {"a", "b"}  # b adds less than c


@pytest.mark.parametrize("needed", [["a"], ["b"]])
def test_where_no_set_is_enough_it_says_so(needed):
    # `a` can be neither made nor kept; nothing that reads it can be there.
    with pytest.raises(Exception, match=r"[Ii]nfinite|unbounded"):
        cheapest_to_keep({"b": ["a"]}, {}, needed)
