"""Where eager does not equal itself, a comparison chosen by hand fails; it is not passed over."""

import pytest
import torch
from _bits import check
from _exact import assert_exact
from torch import nn


class Counting(nn.Module):
    """Adds the number of its calls, which is no buffer: nobody can put it back."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return x + type(self).calls


def assert_fails(compare):
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception)) as raised:
        compare()
    assert raised.type is pytest.fail.Exception
    assert "eager does not equal itself here" in str(raised.value)


def test_functions():
    counting = Counting()
    assert_fails(lambda: check(counting, counting, [torch.ones(3)]))


def test_modules():
    model, x = Counting(), torch.ones(3, requires_grad=True)
    assert_fails(lambda: assert_exact(model, x, compiled=model))
