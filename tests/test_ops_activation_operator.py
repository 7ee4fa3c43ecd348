"""The operators `activation` and `activation_` against eager's functions."""

import pytest
import torch
from _activations import EAGER, LISTS, READS_RESULT
from _bits import DTYPES, Upstream, check, check_errors_too, values

ops = torch.ops.fxpass
NOT_IN_PLACE = (
    *("leaky_relu", "elu", "gelu_none", "gelu_tanh", "softplus", "celu", "selu"),
    *("hardshrink", "softshrink", "logsigmoid"),
)


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operator(name, dtype):
    def ours(x, handle=True):
        y, saved = ops.relu(x)
        return ops.activation(y, saved if handle else None, name, LISTS.get(name, []))

    for layout in ("contiguous", "channels_last", "sliced", "transposed", "expanded"):
        x = values((3, 4, 5, 7), dtype, "specials", layout)
        check(lambda x: EAGER[name](torch.relu(x)), ours, [x])
        check(lambda x: EAGER[name](torch.relu(x)), lambda x: ours(x, False), [x])
    check(lambda x: EAGER[name](torch.relu(x)), ours, [values((0, 3), dtype)])


@pytest.mark.parametrize("name", EAGER)
def test_the_operator_in_place(name):
    arguments = LISTS.get(name, [])
    if name in NOT_IN_PLACE:
        with pytest.raises(ValueError, match=f"'{name}' has no in-place form"):
            ops.activation_(torch.ones(3), None, name, arguments)
        return

    def in_place(x):
        y, saved = ops.relu(x)
        # The handle is claimed before its value is written over.
        z = ops.activation_(y, saved, name, arguments)
        assert z.data_ptr() == y.data_ptr()
        return z

    eager_ = getattr(torch.ops.aten, f"{name}_")

    def eager(x):
        # The ReLU's result is written over: eager raises, unless something is in between.
        return eager_(torch.relu(x))

    check_errors_too(eager, in_place, [values((2, 3, 5, 7))])
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        ops.activation_(x, ops.bitmap(x), name, arguments)


def test_what_the_operator_refuses():
    x = torch.ones(3)
    with pytest.raises(ValueError, match="unknown activation 'sine'"):
        ops.activation(x, None, "sine")
    for name, arguments in (("silu", [1.0]), ("hardtanh", [1.0]), ("elu", [])):
        with pytest.raises(ValueError, match=f"'{name}' takes"):
            ops.activation(x, None, name, arguments)
        with pytest.raises(ValueError, match=f"'{name}' takes"):
            ops.rerun_activation(x, None, name, arguments, True)


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool])
def test_other_dtypes(dtype):
    x = torch.arange(-4, 5).to(dtype)
    for name, eager in EAGER.items():
        arguments = LISTS.get(name, [])
        check_errors_too(
            eager, lambda x, n=name, a=arguments: ops.activation(x, ops.bitmap(x), n, a), [x]
        )


@pytest.mark.parametrize("name", READS_RESULT)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operator_in_place_whose_backward_reads_the_result(name, dtype):
    arguments = LISTS.get(name.rstrip("_"), [])

    def in_place(x, write):
        y = x * 1
        z = ops.activation_(y, ops.bitmap(y), name, arguments)
        return z.add_(1) if write else z

    def eager(x, write):
        z = getattr(torch.ops.aten, name)(x * 1, *arguments)
        return z.add_(1) if write else z

    # A bitmap of values that have no zeros is refused.
    x = values((3, 4, 5, 7), dtype, "specials").mul(values((3, 4, 5, 7), dtype) > 0)
    for kind in ("normal", "specials"):
        check(lambda x: eager(x, False), lambda x: in_place(x, False), [x], upstream=Upstream(kind))
    leaf = x.clone().requires_grad_()
    for function in (eager, in_place):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            function(leaf, True).sum().backward()
