"""Elementwise activations behind a batch norm: eager's bits."""

import pytest
import torch
import torch.nn.functional as F
from _activations import NAMES, OTHERS, READS_RESULT, operators_behind_a_batch_norm
from _bits import DTYPES, values
from _exact import LOSSES, assert_exact
from _norms import Normed, fill_parameters, normed
from _twins import operators
from torch import nn

import fxpass


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((n, d) for n in NAMES for d in DTYPES), *((n, torch.float32) for n in OTHERS)],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_between_a_batch_norm_and_a_convolution(name, dtype, layout):
    for kind, training in (("normal", True), ("specials", True), ("edges", False)):
        x = values((3, 5, 7, 9), dtype, kind, layout).requires_grad_()
        model = normed(x.shape, name, dtype).train(training)
        compiled = assert_exact(model, x, steps=2, note=(kind, training))
    assert operators(compiled) == operators_behind_a_batch_norm(name)
    eager = name in OTHERS
    assert ("self.act(" in compiled._fxpass_unit.latest().program.source) is eager


@pytest.mark.parametrize("name", NAMES)
def test_every_remainder(name):
    for n in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 130):
        x = values((2, 3, n), kind="edges", seed=n).requires_grad_()
        assert_exact(normed(x.shape, name), x, steps=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("on_threads", [1, 2])
def test_large_values_on_all_threads(name, on_threads):
    # Eager's vectors begin anew in each thread's range, and so do their scalar remainders.
    cases = [((3, 67, 19, 13), "contiguous"), ((3, 33, 31, 29), "channels_last")]
    for shape, layout in cases[:on_threads]:
        x = values(shape, layout=layout).requires_grad_()
        assert_exact(normed(shape, name), x, steps=1, on_threads=on_threads, note=layout)


@pytest.mark.parametrize("on_threads", [1, 2])
@pytest.mark.parametrize("n", [32767, 32769, 65537])
def test_around_the_size_of_a_task(n, on_threads):
    # Tiles of ours, and ranges of torch's threads, end at other places.
    for shape in ((1, 1, n), (n, 1)):
        x = values(shape).requires_grad_()
        for name in ("silu", "hardswish", "gelu"):
            assert_exact(normed(shape, name), x, steps=1, on_threads=on_threads, note=(shape, name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reader", [True, False])
def test_gradients_of_all_layouts(name, loss, reader):
    for layout in ("contiguous", "channels_last"):
        x = values((2, 6, 5, 7), kind="edges", layout=layout).requires_grad_()
        model = normed(x.shape, name, reader=reader)
        assert_exact(model, x, steps=1, loss_fn=LOSSES[loss], note=layout)


@pytest.mark.parametrize("name", NAMES)
def test_a_result_with_several_readers(name):
    class Several(Normed):
        def forward(self, x):
            y = self.act(self.bn(x))
            return self.reader(y) + self.reader(y + 1), y.mean(1), F.max_pool2d(y, 2)

    x = values((2, 4, 8, 8)).requires_grad_()
    assert_exact(fill_parameters(Several(x.shape, name)), x)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_norm_with_several_readers(name):
    class Several(Normed):
        def forward(self, x):
            y = self.bn(x)
            return self.reader(y + 1) + self.reader(self.act(y))

    x = values((2, 4, 8, 8)).requires_grad_()
    assert_exact(fill_parameters(Several(x.shape, name)), x, may_raise=name.endswith("_"))


@pytest.mark.parametrize("name", READS_RESULT)
def test_a_write_to_a_result_that_eager_keeps_raises(name):
    def writes_later(later):
        class Writes(Normed):
            def forward(self, x):
                y = self.act(self.bn(x))
                return y.add_(1) if later else y + 1

        return fill_parameters(Writes((2, 4, 8, 8), name, reader=False))

    x = values((2, 4, 8, 8)).requires_grad_()
    assert_exact(writes_later(False), x)
    model = writes_later(True)
    for function in (model, fxpass.compile(model)):
        loss = function(x).sum()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("slope", [-0.2, 0.0, -0.0, float("nan"), float("inf")])
def test_slopes_that_eager_refuses_in_place(slope):
    for act in (nn.LeakyReLU, nn.ELU):
        model = normed((2, 4, 8, 8), "none")
        model.act = act(slope, inplace=True)
        x = values((2, 4, 8, 8), kind="edges").requires_grad_()
        assert_exact(model, x, may_raise=True)
