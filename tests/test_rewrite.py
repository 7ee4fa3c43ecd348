"""The rewrites: which operators a model becomes, its bits over several steps, and its memory."""

import operator

import pytest
import torch
import torch.nn.functional as F
from _twins import Twins, all_operators, operators, saved_bytes
from torch import nn

X = torch.linspace(-3, 3, 2 * 4 * 12 * 12).sin_().view(2, 4, 12, 12)
W = torch.linspace(-1, 1, 4 * 4 * 3 * 3).view(4, 4, 3, 3)


class Model(nn.Module):
    """A convolution, then `tail(self, y, x)`, with layers for the tail to use."""

    def __init__(self, tail, **layers):
        super().__init__()
        self.tail = tail
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn, self.relu, self.relu_ = nn.BatchNorm2d(4), nn.ReLU(), nn.ReLU(inplace=True)
        self.pool, self.linear = nn.MaxPool2d(2), nn.Linear(4 * 12 * 12, 3)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x, *rest):
        return self.tail(self, self.first(x), x, *rest)


def check(tail, *args, steps=3, found=operators, **layers):
    """Runs a few steps of eager and compiled; returns the operators of the compiled model."""
    twins = Twins(lambda: Model(tail, **layers))
    for _ in range(steps):
        twins.step(X, *args)
    return found(twins.compiled)


@pytest.mark.parametrize(
    "relu",
    [
        lambda m, y: m.relu(y),
        lambda m, y: m.relu_(y),
        lambda m, y: F.relu(y),
        lambda m, y: F.relu(y, True),
        lambda m, y: F.relu_(y),
        lambda m, y: torch.relu(y),
        lambda m, y: torch.relu_(y),
        lambda m, y: y.relu(),
        lambda m, y: y.relu_(),
    ],
)
def test_a_relu_before_a_conv_is_rewritten_however_it_is_spelled(relu):
    found = check(lambda m, y, x: m.second(relu(m, m.second(y))))
    assert [name.rstrip("_") for name in found] == ["conv2d", "conv2d", "relu", "conv2d"]
    found = check(lambda m, y, x: m.second(relu(m, m.bn(y))))
    assert found == ["conv2d", "batch_norm", "conv2d"]  # one op with the batch norm


@pytest.mark.parametrize("readers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("pools", [False, True])
def test_one_relu_with_several_readers(readers, pools):
    def tail(m, y, x):
        z = m.relu(y)
        read = [m.second(z), z + 1, F.avg_pool2d(z, 3, 1, 1), m.first(z), z - x]
        total = sum(read[1:readers], read[0])
        return total.sum() + m.pool(z).sum() if pools else total

    found = check(tail)
    assert "relu" in found
    assert ("max_pool2d" in found) is pools


def residual(m, y, x):
    for _ in range(3):
        z = m.bn(m.second(m.relu(y)))
        z = z + y
        y = m.relu_(z)
    return m.linear(y.flatten(1))


def residual_in_place(m, y, x):
    y = m.relu(y)
    for _ in range(3):
        z = m.bn(m.second(y))
        z += y
        y = m.relu_(z)
    return m.linear(y.flatten(1))


@pytest.mark.parametrize("tail", [residual, residual_in_place])
def test_residual_sums(tail):
    found = check(tail)
    assert sum(name.startswith("relu") for name in found) == (6 if tail is residual else 4)
    assert found[-1] == "linear"


def test_a_shared_relu_module():
    found = check(lambda m, y, x: m.second(m.relu(m.second(m.relu(y)))))
    assert found == ["conv2d", "relu", "conv2d", "relu", "conv2d"]


@pytest.mark.parametrize(
    "reshape",
    [
        lambda y: y.flatten(1),
        lambda y: y.view(y.size(0), -1),
        lambda y: torch.flatten(y, 1),
        lambda y: y.reshape(y.shape[0], -1),
    ],
)
def test_relu_then_a_view_then_linear(reshape):
    found = check(lambda m, y, x: m.linear(reshape(F.relu(y))))
    assert found == ["conv2d", "relu", "linear"]


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_then_pool_then_conv(inplace):
    found = check(lambda m, y, x: m.second(m.pool(F.relu(m.second(y), inplace))))
    assert found == ["conv2d", "conv2d", "relu_max_pool2d", "bitmap", "conv2d"]


@pytest.mark.parametrize("inplace", [False, True])
def test_batch_norm_then_relu_then_pool_then_conv(inplace):
    def tail(m, y, x):
        return m.second(m.pool(F.relu(m.bn(y), inplace)))

    # The convolution's input is the pool again, on the batch norm's input.
    assert check(tail, found=all_operators) == [
        "conv2d", "batch_norm", "rerun_max_pool2d", "relu_max_pool2d", "bind", "conv2d",
    ]  # fmt: skip


def test_a_pool_whose_in_place_relu_is_seen_elsewhere():
    assert check(lambda m, y, x: m.pool(m.relu_(y)).sum() + y.mean())[1] == "relu_"
    assert check(lambda m, y, x: m.pool(m.relu_(y.view(2, 4, 12, 12))).sum() + y.mean())
    found = check(lambda m, y, x: (m.pool(m.relu_(x.clone())), y))
    assert "relu_max_pool2d" not in found


def test_a_concatenation_of_relus():
    def tail(m, y, x):
        return m.wide(torch.cat([F.relu(y), F.relu(m.second(y))], 1))

    found = check(tail, wide=nn.Conv2d(8, 2, 3), found=all_operators)
    # y is kept for the second convolution, so the first ReLU costs nothing to make again.
    assert found == [
        "conv2d", "rerun_activation", "relu", "bind", "conv2d", "relu", "rerun_cat", "bind",
        "conv2d",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("padding", [1, 2, "same"])
def test_padding_modes(mode, padding):
    conv = nn.Conv2d(4, 3, 3, padding=padding, padding_mode=mode)
    found = check(lambda m, y, x: m.padded(F.relu(y)), padded=conv)
    assert found == ["conv2d", "relu", *([] if mode == "zeros" else ["pad"]), "conv2d"]


@pytest.mark.parametrize(
    "call",
    [
        lambda y, w: F.conv2d(y, w, padding=1),
        lambda y, w: torch.conv2d(input=y, weight=w),
        lambda y, w: F.linear(y, w.flatten()[:36].view(3, 12)),
    ],
)
def test_weights_as_arguments(call):
    found = check(lambda m, y, x, w: call(F.relu(y), w), W)
    assert found[1] == "relu"
    assert found[-1] in ("conv2d", "linear")


def test_a_value_that_an_unknown_op_saves_stays_dense():
    found = check(lambda m, y, x: m.second(torch.erf(F.relu(y))))
    assert found == ["conv2d", "conv2d"]
    found = check(lambda m, y, x: m.second(F.relu(y)) + torch.erf(torch.relu(y)))
    assert found.count("relu") == 1  # the second is saved by erf
    assert check(lambda m, y, x: m.second(torch.erf(F.relu(y).view(2, 4, 12, 12))))[1:] == [
        "conv2d"
    ]


def test_a_product_keeps_its_factors_by_their_handles():
    found = check(lambda m, y, x: m.second(F.relu(y)) * torch.relu(y))
    assert found == ["conv2d", "relu", "conv2d", "relu", "mul"]
    assert check(lambda m, y, x: m.second(F.relu(y).mul(2)))[1:] == ["relu", "conv2d"]


def test_an_activation_that_the_model_returns_stays_dense():
    def tail(m, y, x):
        z = F.relu(y)
        return {"features": z, "out": (m.second(z), [z.flatten(1)])}

    assert check(tail) == ["conv2d", "conv2d"]


def test_indices_of_a_pool():
    def tail(m, y, x):
        z, indices = F.max_pool2d(F.relu(y), 2, return_indices=True)
        return F.max_unpool2d(z, indices, 2)

    assert "max_pool2d_with_indices" in check(tail)


def test_dropout_in_between():
    def tail(m, y, x):
        return m.linear(F.dropout(F.relu(y), 0.5, m.training).flatten(1))

    assert check(tail, found=all_operators) == ["conv2d", "relu", "bitmap", "pack_noise", "linear"]


@pytest.mark.parametrize(
    "rest",
    [
        lambda m, y: y.add_(1),
        lambda m, y: operator.iadd(y, 1),
        lambda m, y: y.mul_(2),
        lambda m, y: y.flatten().add_(1),
        lambda m, y: m.relu_(y),
        lambda m, y: F.dropout(y, inplace=True),
    ],
)
@pytest.mark.parametrize("reads", [True, False])
def test_writing_to_a_saved_value_raises_where_eager_does(rest, reads):
    def tail(m, y, x):
        z = m.relu(y)
        c = m.second(z).sum() if reads else 0
        return c + rest(m, z).sum()

    twins = Twins(lambda: Model(tail))
    for model in (twins.eager, twins.compiled):
        loss = model(X)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_writing_to_a_value_that_nobody_saves_is_allowed():
    def tail(m, y, x):
        z = y + x
        c = z.sum()
        z.add_(1)
        return c + m.second(m.relu_(z)).sum()

    assert "relu_" in check(tail)


def test_memory_of_a_residual_network():
    class Residual(Model):
        def __init__(self):
            super().__init__(residual_in_place)
            self.bn = nn.Identity()

    twins = Twins(Residual)
    with torch.no_grad():
        for model in (twins.eager, twins.compiled):
            model.first.bias.fill_(-1)  # few ones are positive
    assert saved_bytes(twins.compiled, X) < 0.75 * saved_bytes(twins.eager, X)


def test_memory_of_a_chain():
    layers = {f"conv{i}": nn.Conv2d(4, 4, 3, padding=1) for i in range(6)}

    def chain(m, y, x):
        for i in range(6):
            y = getattr(m, f"conv{i}")(m.relu(y))
        return y.mean()

    twins = Twins(lambda: Model(chain, **layers))
    twins.step(X)
    assert saved_bytes(twins.compiled, X) < 0.65 * saved_bytes(twins.eager, X)
