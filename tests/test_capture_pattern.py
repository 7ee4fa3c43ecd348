"""`ArgPattern`: equal keys for calls that can share a trace, and for no others."""

import collections
import enum

import pytest
import torch
from _timing import timed
from hypothesis import given
from hypothesis import strategies as st

from fxpass.capture import ArgPattern, UnsupportedArgument

Pair = collections.namedtuple("Pair", "left right")
Kind = enum.Enum("Kind", "A B")
A, B = torch.zeros(2), torch.ones(3, 1)

constants = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(width=16),
    st.text(max_size=1),
    st.sampled_from([torch.float32, torch.device("cpu"), Kind.A, ..., torch.Size([1]), 1j]),
)


def nested(leaves):
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.tuples(inner, inner).map(lambda t: Pair(*t)),
            st.dictionaries(st.sampled_from(["a", "b", 3]), inner, max_size=2),
            st.dictionaries(st.sampled_from("ab"), inner).map(collections.OrderedDict),
        ),
        max_leaves=6,
    )


calls = st.tuples(
    st.lists(nested(constants | st.builds(lambda: torch.rand(2))), max_size=3).map(tuple),
    st.dictionaries(st.sampled_from("xy"), nested(constants | st.builds(lambda: torch.rand(2)))),
)


def shape(value):
    """An independent form of a call, with the tensors by identity."""
    if isinstance(value, torch.Tensor):
        return ("tensor", id(value))
    if isinstance(value, dict):
        return (type(value), [(k, shape(v)) for k, v in value.items()])
    if isinstance(value, (tuple, list)):
        return (type(value), [shape(v) for v in value])
    return (type(value), repr(value))


@given(calls)
def test_a_call_is_rebuilt_from_its_pattern_and_values(call):
    pattern, values = ArgPattern.split(*call)
    rest = list(values)
    assert shape(pattern.inflate(lambda _: rest.pop(0))) == shape(call)
    assert not rest
    assert list(map(id, pattern.flatten(*call))) == list(map(id, values))
    hash(pattern)
    repr(pattern)


def anonymous(value):
    """The structure of a call without the identity of its tensors."""
    return repr(shape(value)) if not isinstance(value, torch.Tensor) else "tensor"


def without_tensors(value):
    if isinstance(value, torch.Tensor):
        return "a tensor"
    if isinstance(value, dict):
        return (type(value), [(type(k), k, without_tensors(v)) for k, v in value.items()])
    if isinstance(value, (tuple, list)):
        return (type(value), [without_tensors(v) for v in value])
    return (type(value), repr(value))


@given(calls, calls)
def test_patterns_are_equal_if_and_only_if_the_calls_have_one_form(a, b):
    assert (ArgPattern.of(*a) == ArgPattern.of(*b)) == (without_tensors(a) == without_tensors(b))


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, True), (1, 1.0), (0.0, -0.0), (0, None), ([1], (1,)), ({"a": 1}, {"b": 1}), ("1", 1)],
)
def test_constants_that_python_calls_equal_are_told_apart(a, b):
    assert ArgPattern.of((A, a), {}) != ArgPattern.of((A, b), {})


def test_nan_matches_itself():
    assert ArgPattern.of((float("nan"),), {}) == ArgPattern.of((float("nan"),), {})


def test_order_of_values():
    pattern, values = ArgPattern.split(([A, 1], {"k": B}), {"y": A, "x": None})
    assert [v is w for v, w in zip(values, (A, B, A), strict=True)] == [True] * 3
    assert repr(pattern) == "([<tensor>, 1], {'k': <tensor>}, y=<tensor>, x=None)"


def test_flatten_of_another_call():
    with pytest.raises(UnsupportedArgument, match=r"expected a call of the form \(<tensor>\)"):
        ArgPattern.of((A,), {}).flatten((A, B), {})


@pytest.mark.parametrize("value", [object(), {1, 2}, {None: 1}, lambda: 0, iter([]), {A: 1}])
def test_unsupported(value):
    with pytest.raises(UnsupportedArgument):
        ArgPattern.of((value,), {})


def test_one_tensor_is_fast():
    args, kwargs = (A,), {}
    best = min(timed(lambda: ArgPattern.split(args, kwargs), 1000) for _ in range(5))
    assert best < 3e-6
