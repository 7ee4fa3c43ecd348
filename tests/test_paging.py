"""Values in files: the bits, the memory, the room on the disk, what is read ahead."""

import pytest
import torch
import torch.nn.functional as F
from _bits import DTYPES, check, difference, values
from _exact import assert_exact, weighted
from _paged import drained, paged
from _threads import at_once
from torch import nn

from fxpass import memory, paging

ops = torch.ops.fxpass
LEAST_BUFFERS = 2 * ((1 << 20) + 4096)


def chain(depth=4, channels=8):
    """The plan keeps the input, and that of every batch norm: depth + 1 values."""
    torch.manual_seed(0)
    layers = [
        layer
        for _ in range(depth)
        for layer in (nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
    ]
    return nn.Sequential(*layers, nn.SiLU(), nn.Flatten(), nn.LazyLinear(5))


def image(size=16, channels=8, batch=2):
    return values((batch, channels, size, size), kind="specials" if size < 8 else "normal")


def model_for(x, **arguments):
    model = chain(**arguments)
    model(x)
    return model


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [1, 16, 130])  # pages of a fraction of a chunk, of several
def test_bits(tmp_path, size):
    x = image(size)
    model = model_for(x)
    compiled = paged(model, tmp_path)
    assert_exact(model, x, compiled=compiled, steps=4)
    assert paging.counters(tmp_path).pages == 4 * 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_every_dtype_and_layout(tmp_path, dtype):
    x = image().to(memory_format=torch.channels_last).to(dtype)
    model = model_for(image()).to(dtype).to(memory_format=torch.channels_last)
    assert_exact(model, x, compiled=paged(model, tmp_path))
    assert paging.counters(tmp_path).pages == 3 * 5


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced", "expanded"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.complex64])
def test_values_of_any_kind(tmp_path, dtype, layout):
    factor = values((6, 40), torch.float32, "normal", layout)
    factor = factor.to(dtype) if dtype.is_floating_point else (factor * 4).to(dtype)
    x = values((6, 40))
    check(
        lambda x: x * factor,
        lambda x: ops.mul(x, None, factor, ops.page(factor, str(tmp_path))),
        [x],
    )
    assert paging.counters(tmp_path).pages_read == 1


def test_what_has_gaps_stays_in_memory(tmp_path):
    w = values((4, 6, 3, 3))
    x = values((2, 6, 9, 9), layout="expanded")[:, :, ::2]
    check(
        lambda x, w: F.conv2d(x, w),
        lambda x, w: ops.conv2d(x, ops.page(x, str(tmp_path)), w, None, [1], [0], [1], 1),
        [x, w],
    )
    assert paging.counters(tmp_path).pages == 0


def kept_in_file(x, w, directory, buffer_bytes=LEAST_BUFFERS):
    """A linear layer whose input alone is saved."""
    return ops.linear(x, ops.page(x, str(directory), buffer_bytes), w, None)


def test_the_bytes_are_those_of_the_time_when_they_were_claimed(tmp_path):
    # Eager keeps the product: what it was made of may be written to, while the disk is busy.
    def eager(x, w):
        y = F.linear(torch.cat([x]), w)
        x.zero_()
        return y

    def ours(x, w):
        handle = ops.rerun_cat([x], [ops.page(x, str(tmp_path))], 0)
        product = torch.cat([x])
        y = ops.linear(product, ops.bind(handle, product), w, None)
        x.zero_()
        return y

    for _ in range(5):
        check(eager, ours, [values((1024, 2048)), values((4, 2048))], needs=[False, True])
    assert paging.counters(tmp_path).pages_read == 5


def test_a_value_written_to_raises_as_in_eager(tmp_path):
    x, w = values((4, 6)), values((3, 6)).requires_grad_()
    out = kept_in_file(x, w, tmp_path)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_backward_twice_and_in_parts(tmp_path):
    x = image(130)
    model = model_for(x)
    compiled = paged(model, tmp_path)
    parameters = list(model.parameters())

    def gradients(module):
        loss = weighted(module(x.clone().requires_grad_()))
        first, last = parameters[:2], parameters[-2:]
        yield from torch.autograd.grad(loss, last, retain_graph=True)
        yield from torch.autograd.grad(loss, parameters, retain_graph=True)
        yield from torch.autograd.grad(loss, first)
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(loss, last)

    for a, b in zip(gradients(model), gradients(compiled), strict=True):
        assert difference(a, b) is None
    now = drained(tmp_path)
    assert now.pages_now == 0
    assert now.pages_read >= 10


def test_several_threads(tmp_path):
    x = image(40)
    models = [model_for(x) for _ in range(4)]
    compiled = [paged(model, tmp_path) for model in models]
    found = [None] * 4

    def train(i):
        gradients = []
        for _ in range(5):
            loss = weighted(compiled[i](x))
            gradients.append(torch.autograd.grad(loss, list(models[i].parameters())))
        found[i] = gradients

    expected = torch.autograd.grad(weighted(models[0](x)), list(models[0].parameters()))
    at_once(4, train)
    assert all(
        difference(a, b) is None
        for gradients in found
        for g in gradients
        for a, b in zip(expected, g, strict=True)
    )
    assert drained(tmp_path).pages_now == 0


def test_several_backwards_over_one_graph(tmp_path):
    x = image(130)
    model = model_for(x)
    expected = torch.autograd.grad(weighted(model(x)), list(model.parameters()))
    loss = weighted(paged(model, tmp_path)(x))

    def backward(i):
        found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        assert all(difference(a, b) is None for a, b in zip(expected, found, strict=True))

    at_once(4, backward)


def test_memory(tmp_path):
    x = values((256, 4096))
    directory = tmp_path
    w = values((8, 4096)).requires_grad_()
    kept_in_file(x[:1], w, directory).sum().backward()
    w.grad = None
    with memory.track() as tracked:
        before = tracked.live_bytes
        # Nobody but backward needs the value: it is gone once it is on the disk.
        out = kept_in_file(x * 2, w, directory)
        assert tracked.peak_bytes <= before + 2 * x.nbytes  # one is the product itself
        drained(directory)
        assert tracked.live_bytes == before + out.nbytes
        tracked.reset_peak()
        out.sum().backward()
        assert tracked.peak_bytes <= tracked.live_bytes + x.nbytes + LEAST_BUFFERS + w.nbytes
        assert tracked.live_bytes == before + out.nbytes + w.nbytes


def test_buffers_are_bounded(tmp_path):
    x, w = values((2048, 4096)), values((8, 4096)).requires_grad_()  # 32 MiB
    with memory.track() as tracked:
        handle = ops.page(x, str(tmp_path), LEAST_BUFFERS)
        out = ops.linear(x, handle, w, None)
        assert tracked.peak_bytes <= out.nbytes + LEAST_BUFFERS
        assert handle.recipe() == "page"
        assert 0 < handle.nbytes() <= LEAST_BUFFERS
        drained(tmp_path)
        assert handle.nbytes() == 0
        assert tracked.live_bytes == out.nbytes
    with memory.track() as tracked:
        out = ops.linear(x, ops.page(x, str(tmp_path)), w, None)
        assert tracked.peak_bytes <= out.nbytes + paging.BUFFER_BYTES


def test_what_is_read_ahead(tmp_path):
    x = image(64)
    compiled = paged(model_for(x, depth=6), tmp_path)
    loss = weighted(compiled(x))
    before = drained(tmp_path)
    loss.backward()
    now = drained(tmp_path)
    read, ahead = now.pages_read - before.pages_read, now.pages_read_ahead - before.pages_read_ahead
    assert read == 7
    assert ahead == read - 1  # all but the first
    assert now.read_bytes == now.written_bytes


def test_what_is_read_ahead_goes_with_the_backward(tmp_path):
    x = image(64)
    model = model_for(x, depth=6)
    compiled = paged(model, tmp_path)
    loss = weighted(compiled(x))
    drained(tmp_path)
    with memory.track() as tracked:
        found = torch.autograd.grad(loss, model[-1].weight, retain_graph=True)
        assert paging.counters(tmp_path).buffer_bytes_now == 0
        assert tracked.live_bytes == found[0].nbytes

    def stop(_):
        raise KeyError("stop")

    y = compiled(x)
    drained(tmp_path)
    model[5].weight.register_hook(stop)
    with pytest.raises(KeyError, match="stop"):
        weighted(y).backward()
    assert paging.counters(tmp_path).pages_read > 1
    assert paging.counters(tmp_path).buffer_bytes_now == 0


def test_a_page_that_was_not_yet_written_need_not_be(tmp_path):
    x, w = values((200, 4096)), values((8, 4096)).requires_grad_()
    for i in range(100):
        loss = kept_in_file(x, w, tmp_path, paging.BUFFER_BYTES).sum()
        if i % 2:
            loss.backward()
        del loss
    now = drained(tmp_path)
    assert now.pages == 100
    assert now.pages_read == 50
    assert now.written_bytes < 100 * x.nbytes
    assert now.file_bytes <= 8 << 20  # that of one page, and what was being written of one before


def test_room_in_the_file_is_used_again(tmp_path):
    x = image(40)
    model = model_for(x)
    compiled = paged(model, tmp_path)
    for _ in range(20):
        loss = weighted(compiled(x))
        drained(tmp_path)
        loss.backward()
    now = drained(tmp_path)
    assert now.pages == 20 * 5
    assert now.file_bytes == 5 << 20
    assert now.pages_now == 0


def test_nothing_is_done_where_no_gradient_is_needed(tmp_path):
    x = image()
    model = model_for(x)
    compiled = paged(model, tmp_path / "is not there")
    with torch.no_grad():
        compiled(x)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    compiled(x)


def test_the_users_hooks_see_the_tensors(tmp_path):
    x = image()
    model = model_for(x)
    packed = []

    def pack(tensor):
        packed.append(tensor)
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, packed.__getitem__):
        loss = weighted(paged(model, tmp_path)(x))
    assert paging.counters(tmp_path).pages == 0
    assert sum(t.nbytes for t in packed) > 8 * x.nbytes
    loss.backward()


class Scripted(nn.Module):
    """Two layers, the input of the second in a file."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.directory = directory
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        h = F.conv2d(x, self.first.weight, self.first.bias).sin()
        saved = torch.ops.fxpass.page(h, self.directory)
        weight, bias = self.second.weight, self.second.bias
        return torch.ops.fxpass.conv2d(h, saved, weight, bias, [1], [0], [1], 1)


def test_torchscript(tmp_path):
    torch.manual_seed(0)
    model = Scripted(str(tmp_path))
    plain = nn.Sequential(model.first, nn.Identity(), model.second)
    plain[1].forward = torch.sin
    path = tmp_path / "model.pt"
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.script(model).save(path)
    with pytest.warns(DeprecationWarning, match="jit"):
        loaded = torch.jit.load(path)
    x = values((2, 3, 12, 12))
    for _ in range(4):  # the executor specialises after the first
        found = torch.autograd.grad(weighted(loaded(x)), list(loaded.parameters()))
        expected = torch.autograd.grad(weighted(plain(x)), list(plain.parameters()))
        assert all(difference(a, b) is None for a, b in zip(expected, found, strict=True))
    assert drained(tmp_path).pages_read == 4


def test_bandwidth_is_measured_once(tmp_path):
    found = paging.bandwidth(tmp_path)
    assert found.write > 1e5
    assert found.read > 1e5
    assert paging.bandwidth(f"{tmp_path}/.") is found
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_garbage")
def test_no_cycle_keeps_a_page(tmp_path):
    x = image()
    compiled = paged(model_for(x), tmp_path)
    out = compiled(x)
    assert paging.counters(tmp_path).pages_now > 0
    del out
    assert paging.counters(tmp_path).pages_now == 0


def test_the_plan_needs_a_directory():
    with pytest.raises(ValueError, match="expected page_dir"):
        paged(model_for(image()), None)
