"""What a traced module is given and what it returns: structures, defaults, names and types."""

import collections
import dataclasses
import enum
import math

import numpy as np
import pytest
import torch
from _traces import X, check, generated, make

from fxpass.capture import ArgPattern, Lossy, capture

Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Output:
    value: torch.Tensor
    more: int = 0


class Mode(enum.Enum):
    FAST = 1


def test_arguments_by_default_name_star_and_structure():
    def forward(self, x, y=None, *rest, scale=2, flags=(1, 2), **named):
        x = x * scale + len(rest) + flags[0]
        for value in rest:
            x = x + value
        if y is not None:
            x = x - (y["a"] if isinstance(y, dict) else y)
        return x, [*named.values()], {k: v * 2 for k, v in named.items()}

    module = make(forward)
    check(module, X)
    check(module, X, X + 1)
    check(module, X, {"a": X + 1, "b": [X, (X, 2)]})
    check(module, X, None, X, X * 3, scale=1.5, q=X, r=X + 2)
    check(module, x=X, flags=[3])
    check(module, X, Pair(X, 1).left)
    check(make(lambda self, p: p.left * p.right), Pair(X, 3))


@pytest.mark.parametrize(
    "result",
    [
        lambda x: (x, [x, {"a": x}], None, 3, 0.1, -0.0, math.inf, "text", x.shape),
        lambda x: collections.OrderedDict(a=x, b=(x,)),
        lambda x: Pair(x, x + 1),
        lambda x: Output(x, 3),
        lambda x: {"number": np.float64(0.1), "dtype": torch.float64, "slice": slice(0, 2)},
        lambda x: None,
        lambda x: x,
    ],
)
def test_results(result):
    check(make(lambda self, x: result(x)), X)


def test_nan_in_the_trace():
    found = capture(make(lambda self, x: (x, math.nan)), ArgPattern.of((X,), {}))
    assert math.isnan(generated(found.graph)(None, X)[1])


def test_results_that_lose_their_type():
    class Special(dict):
        pass

    for result in (
        lambda x: (x, Mode.FAST),
        lambda x: Special(a=x),
        lambda x: {x: 1},
        lambda x: {1, 2},
        lambda x: print,
    ):
        with pytest.raises(Lossy):
            capture(make(lambda self, x, r=result: r(x)), ArgPattern.of((X,), {}))
