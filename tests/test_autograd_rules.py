"""The operators as citizens of autograd: what they keep, for how long, and when they raise."""

import contextlib
import gc
import threading
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from _bits import Upstream, check, difference, twin, values
from _chain import BOTH, eager, ours, parameters
from torch.utils.checkpoint import checkpoint

from fxpass import memory

ops = torch.ops.fxpass


@pytest.fixture(autouse=True)
def no_garbage():
    """Reference counting alone must free everything: no collector runs in these tests."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# ---- what is live, and when ---------------------------------------------------------------------


def live_bytes(step, backward):
    """Live bytes after forward and after `backward(loss, tensors)`; the loss is held all along."""
    tensors = parameters()
    with memory.track() as tracked:
        loss = step(*tensors)
        forward = tracked.live_bytes
        result = backward(loss, tensors)
        after = tracked.live_bytes
        del result, loss
        for tensor in tensors:
            tensor.grad = None
        assert tracked.live_bytes == 0, "something is kept for ever"
    return forward, after


def of_both(backward):
    return {name: live_bytes(step, backward) for name, step in BOTH.items()}


def test_a_payload_is_gone_when_backward_is_over_and_the_loss_still_held():
    found = of_both(lambda loss, tensors: loss.backward())
    assert found["ours"][0] < 0.6 * found["eager"][0]
    gradients = sum(t.nbytes for t in parameters())
    assert found["eager"][1] == found["ours"][1] == gradients + 4


def test_retained_payloads_are_gone_after_the_last_backward():
    def twice(loss, tensors):
        loss.backward(retain_graph=True)
        loss.backward()

    found = of_both(twice)
    assert found["ours"][1] == found["eager"][1]


@pytest.mark.parametrize("wanted", [[0], [1], [2], [3], [4], [2, 3], [3, 4], [0, 4], [1, 2]])
def test_gradients_of_some_inputs_only(wanted):
    found = of_both(lambda loss, ts: torch.autograd.grad(loss, [ts[i] for i in wanted]))
    assert found["ours"][1] <= found["eager"][1]


@pytest.mark.parametrize("where", range(5))
def test_backward_that_raises_in_the_middle(where):
    class Stop(Exception):
        pass

    def stop(gradient):
        raise Stop

    def failing(loss, tensors):
        hook = tensors[where].register_hook(stop)
        with contextlib.suppress(Stop):  # pytest.raises keeps the traceback, and the gradient in it
            loss.backward()
            raise AssertionError
        hook.remove()

    found = of_both(failing)
    assert found["ours"][1] <= found["eager"][1]


@pytest.mark.parametrize("frozen", [[0], [1], [2], [4], [1, 2], [1, 2, 4], [0, 1, 2, 3], [0, 1, 2, 3, 4]])
def test_what_no_gradient_needs_is_not_kept(frozen):
    def kept(step):
        tensors = parameters()
        for i in frozen:
            tensors[i].requires_grad_(False)
        with memory.track() as tracked:
            loss = step(*tensors)
            live = tracked.live_bytes
            del loss
        return live

    # A bitmap is at most 1.03 of the dense value; every one of these nets is far below.
    assert kept(ours) <= kept(eager)


def live_of_conv(needs, layers=1):
    x, w = values((4, 8, 32, 32)), values((8, 8, 3, 3))
    tensors = [twin(x, needs[0]), twin(w, needs[1])]
    with memory.track() as tracked:
        y, handle = ops.relu(tensors[0])
        out = ops.conv2d(y, handle, tensors[1])
        del y, handle
        live = tracked.live_bytes - out.nbytes
    return live / x.nbytes


def test_a_convolution_keeps_its_input_for_the_gradient_of_its_weight_only():
    mask = 1 / 32
    assert live_of_conv([False, False]) == 0
    assert live_of_conv([True, False]) == mask
    assert live_of_conv([False, True]) == pytest.approx(0.5 + mask, abs=0.02)
    assert live_of_conv([True, True]) == pytest.approx(0.5 + mask, abs=0.02)  # one mask for both


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_packed(mode):
    tensors = parameters()
    with mode(), memory.track() as tracked:
        y, handle = ops.relu(tensors[0])
        assert tracked.live_bytes == y.nbytes
        conv = ops.conv2d(y, handle, tensors[1])
        assert handle.nbytes() == 0
        pooled = ops.relu_max_pool2d(conv, [2])
        assert tracked.live_bytes == y.nbytes + conv.nbytes + pooled.nbytes
    peaks = {}
    for name, step in BOTH.items():
        with mode(), memory.track() as tracked:
            step(*tensors)
        peaks[name] = tracked.peak_bytes
    assert peaks["ours"] <= peaks["eager"]


def test_a_value_that_is_not_sparse_stays_dense():
    x, w = values((4, 8, 16, 16)).abs_().add_(1).requires_grad_(), values((8, 8, 3, 3)).requires_grad_()
    y, handle = ops.relu(x)
    out = ops.conv2d(y, handle, w)
    assert handle.nbytes() == 0
    check(lambda x, w: F.conv2d(x.relu(), w), lambda x, w: ops.conv2d(*ops.relu(x), w), [x.detach(), w.detach()])
    del out


@pytest.mark.parametrize("keep", ["output", "result", "pooled"])
def test_a_graph_that_was_never_differentiated_is_freed_with_its_output(keep):
    with memory.track() as tracked:
        tensors = parameters()
        y, handle = ops.relu(tensors[0])
        out = ops.conv2d(y, handle, tensors[1])
        pooled = ops.max_pool2d(out, [2])
        last = {"output": out, "result": y, "pooled": pooled}[keep]
        del y, handle, out, pooled, tensors, last
        assert tracked.live_bytes == 0


# ---- one value, several consumers ---------------------------------------------------------------


def with_consumers(count):
    x = values((4, 8, 32, 32)).requires_grad_()
    weights = [values((8, 8, 3, 3), seed=i).requires_grad_() for i in range(count)]
    y, handle = ops.relu(x)
    return x, weights, [ops.conv2d(y, handle, w, None, [1], [1]) for w in weights]


def allocated(outputs, nbytes, inputs):
    """How often backward allocates a tensor of `nbytes` bytes."""
    total = sum(out.sum() for out in outputs)
    with memory.track(timeline=True) as tracked:
        torch.autograd.grad(total, inputs)
    events = [0, *(event.live_bytes for event in tracked.timeline())]
    return sum(1 for a, b in pairwise(events) if b - a == nbytes)


def test_a_value_is_restored_once_for_all_consumers():
    x = values((4, 8, 32, 33))

    def count(consumers, *, packed):
        weights = [values((4, 8, 3, 3), seed=i).requires_grad_() for i in range(consumers)]
        y, handle = ops.relu(x)
        outs = [ops.conv2d(y, handle if packed else None, w, None, [1], [1]) for w in weights]
        assert (handle.nbytes() > 0) == packed
        del y, handle
        return allocated(outs, x.nbytes, weights)

    for consumers in (1, 2, 4):  # the convolution itself makes copies of that size too
        assert count(consumers, packed=True) == count(consumers, packed=False) + 1


@pytest.mark.parametrize("skipped", [[0], [1], [2], [0, 1], [0, 2], [1, 2]])
def test_a_skipped_consumer_does_not_keep_the_restored_value(skipped):
    x, weights, outs = with_consumers(3)
    total = sum(out.sum() for out in outs)
    del outs
    wanted = [w for i, w in enumerate(weights) if i not in skipped]
    with memory.track() as tracked:
        gradients = torch.autograd.grad(total, wanted)
        assert tracked.live_bytes <= sum(g.nbytes for g in gradients)


def test_a_consumer_that_raises_does_not_keep_the_restored_value():
    def stop(gradient):
        raise ValueError("stop")

    x, weights, outs = with_consumers(3)
    weights[1].register_hook(stop)
    total = sum(out.sum() for out in outs)
    del outs
    with memory.track() as tracked:
        with contextlib.suppress(ValueError):
            total.backward()
            raise AssertionError
        held = sum(w.grad.nbytes for w in weights if w.grad is not None)
        assert tracked.live_bytes <= held
    weights[1]._backward_hooks.clear()


def test_backwards_on_two_threads_over_one_graph():
    tensors = parameters()
    loss = ours(*tensors)
    expected = torch.autograd.grad(loss, tensors, retain_graph=True)
    wrong, gate = [], threading.Barrier(2)

    def work():
        gate.wait()
        for _ in range(20):
            found = torch.autograd.grad(loss, tensors, retain_graph=True)
            wrong.extend(filter(None, map(difference, expected, found)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with memory.track() as tracked:
        del loss
        assert tracked.live_bytes < 0


# ---- twice ---------------------------------------------------------------------------------------


def test_a_second_backward_raises_as_in_eager():
    for step in BOTH.values():
        loss = step(*parameters())
        loss.backward()
        with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
            loss.backward()


SINGLE = {
    "relu": lambda x: ops.relu(x)[0],
    "relu_": lambda x: ops.relu_(x * 1)[0],
    "conv2d": lambda x: ops.conv2d(x, ops.bitmap(x), torch.ones(2, 2, 2, 2)),
    "linear": lambda x: ops.linear(x, ops.bitmap(x), torch.ones(3, 6, requires_grad=True)),
    "max_pool2d": lambda x: ops.max_pool2d(x, [2]),
    "max_pool2d_with_indices": lambda x: ops.max_pool2d_with_indices(x, [2])[0],
    "relu_max_pool2d": lambda x: ops.relu_max_pool2d(x, [2]),
    "max_pool3d": lambda x: ops.max_pool3d(x, [2]),
    "avg_pool2d": lambda x: ops.avg_pool2d(x, [2]),
    "adaptive_avg_pool2d": lambda x: ops.adaptive_avg_pool2d(x, [2, 2]),
    "adaptive_max_pool2d": lambda x: ops.adaptive_max_pool2d(x, [2, 2])[0],
    "pad": lambda x: ops.pad(x, None, [1, 1, 1, 1], "reflect")[0],
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_second_backward_of_each_operator(name):
    x = values((2, 2, 6, 6)).requires_grad_()
    out = SINGLE[name](x)
    out.sum().backward(retain_graph=True)
    first, x.grad = x.grad, None
    total = out.sum()
    total.backward()
    assert difference(first, x.grad) is None
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        out.sum().backward()


def test_retain_graph_twice_gives_the_same_bits():
    def three_times(step):
        def run(*tensors):
            loss = step(*tensors)
            loss.backward(retain_graph=True)
            loss.backward(retain_graph=True)
            return loss

        return run

    check(three_times(eager), three_times(ours), [t.detach() for t in parameters()])


OWN_NODES = ["relu", "relu_", "conv2d", "max_pool2d", "relu_max_pool2d"]


@pytest.mark.parametrize("name", OWN_NODES)
def test_create_graph_raises_and_names_the_way_out(name):
    x = values((2, 2, 6, 6)).requires_grad_()
    out = SINGLE[name](x)
    with pytest.raises(RuntimeError, match=r"fxpass::\w+: double backward") as error:
        torch.autograd.grad(out.sum(), x, create_graph=True)
    assert name.rstrip("_").removeprefix("relu_").removesuffix("2d") in str(error.value)
    assert "with compiled.eager():" in str(error.value)
    # The graph is whole: an ordinary backward still works.
    torch.autograd.grad(out.sum(), x)


@pytest.mark.parametrize("name", sorted(set(SINGLE) - set(OWN_NODES)))
def test_create_graph_over_graphs_of_eager_is_right_or_raises(name):
    def second(op):
        def run(x):
            (gradient,) = torch.autograd.grad(op(x).pow(2).sum(), x, create_graph=True)
            return gradient.pow(2).sum()

        return run

    eager_ops = {
        "linear": lambda x: F.linear(x, torch.ones(3, 6, requires_grad=True)),
        "max_pool2d_with_indices": lambda x: F.max_pool2d(x, 2),
        "max_pool3d": lambda x: F.max_pool3d(x, 2),
        "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
        "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
        "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
        "pad": lambda x: F.pad(x, [1, 1, 1, 1], "reflect"),
    }
    check(second(eager_ops[name]), second(SINGLE[name]), [values((2, 2, 6, 6))])


# ---- written to in place -------------------------------------------------------------------------


def writes():
    """Name -> (eager, ours); each writes somewhere between forward and backward."""

    def conv(where, *, relu=True):
        def make(is_ours):
            def run(x, w, b):
                x, w, b = x * 1, w * 1, b * 1
                y, s = ops.relu(x) if is_ours else (torch.relu(x), None)
                z = ops.conv2d(y, s, w, b) if is_ours else F.conv2d(y, w, b)
                {"x": x, "y": y, "w": w, "b": b, "z": z}[where].detach().mul_(2)
                return z

            return run

        return make(False), make(True)

    def padded(where, mode):
        def make(is_ours):
            def run(x, w, b):
                x, w = x.detach() * 1, w * 1  # the ReLU needs no gradient, so keeps no result
                y, s = ops.relu(x) if is_ours else (torch.relu(x), None)
                args = ([1, 1, 1, 1], mode)
                p, t = ops.pad(y, s, *args) if is_ours else (F.pad(y, *args), None)
                z = ops.conv2d(p, t, w, b) if is_ours else F.conv2d(p, w, b)
                {"x": x, "y": y, "p": p}[where].detach().mul_(2)
                return z

            return run

        return make(False), make(True)

    def pool(where, name):
        def make(is_ours):
            def run(x, w, b):
                x = x * 1
                y = torch.relu(x) if name != "relu_max_pool2d" else x * 1
                if is_ours:
                    p = getattr(ops, name)(y, [2])
                else:
                    p = getattr(F, name.removeprefix("relu_"))(
                        torch.relu(y) if name.startswith("relu_") else y, 2
                    )
                p = p[0] if isinstance(p, tuple) else p
                {"y": y, "p": p}[where].detach().mul_(2)
                return p

            return run

        return make(False), make(True)

    def linear(where):
        def make(is_ours):
            def run(x, w, b):
                x, w = x.flatten(1) * 1, w.flatten(1) * 1
                x = x[:, : w.size(1)]
                y, s = ops.relu(x) if is_ours else (torch.relu(x), None)
                z = ops.linear(y, s, w, b) if is_ours else F.linear(y, w, b)
                {"x": x, "y": y, "w": w, "z": z}[where].detach().mul_(2)
                return z

            return run

        return make(False), make(True)

    yield from ((f"conv {w}", conv(w)) for w in "xywbz")
    yield from ((f"linear {w}", linear(w)) for w in "xywz")
    for mode in ("constant", "circular", "reflect"):
        yield from ((f"pad {mode} {w}", padded(w, mode)) for w in "xyp")
    for name in ("max_pool2d", "max_pool3d", "avg_pool2d", "relu_max_pool2d"):
        yield from ((f"{name} {w}", pool(w, name)) for w in "yp")


@pytest.mark.parametrize(("what", "pair"), [pytest.param(n, p, id=n) for n, p in writes()])
@pytest.mark.parametrize("needs", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)])
def test_a_value_written_to_raises_where_eager_raises_and_nowhere_else(what, pair, needs):
    tensors = [values((2, 4, 9, 9)), values((4, 4, 3, 3)), values((4,))]
    done = check(*pair, tensors, needs=[bool(n) for n in needs])
    if done.error is not None:
        assert "modified by an inplace operation" in str(done.error)
        given = [twin(t, bool(n)) for t, n in zip(tensors, needs, strict=True)]
        with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
            pair[1](*given).sum().backward()


def test_a_stale_handle_is_not_used():
    def stale(x, w):
        y, handle = ops.relu(x)
        with torch.no_grad():
            y.mul_(1.5)
        return ops.conv2d(y, handle, w)

    x, w = values((2, 4, 8, 8)), values((4, 4, 3, 3))
    check(lambda x, w: F.conv2d(x.relu() * 1.5, w), lambda x, w: stale(x, w), [x, w], needs=[False, True])


# ---- handles that do not belong ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["other", "shifted", "larger", "other dtype", "dense", "freed", "of pad"])
def test_a_foreign_handle_means_dense(kind):
    def handle_for(y):
        other = torch.zeros_like(y.detach())
        return {
            "other": lambda: ops.bitmap(other),
            "shifted": lambda: ops.bitmap(y.detach().flatten()[1:]),
            "larger": lambda: ops.bitmap(y.detach()[:1]),
            "other dtype": lambda: ops.bitmap(y.detach().view(torch.float16)),
            "dense": lambda: ops.relu(torch.zeros(3, dtype=torch.int64))[1],
            "freed": lambda: ops.bitmap(y.detach() * 1),
            "of pad": lambda: ops.pad(other, ops.bitmap(other), [1, 1])[1],
        }[kind]()

    def conv(x, w):
        y = torch.relu(x)
        return ops.conv2d(y, handle_for(y), w)

    def linear(x, w):
        y = torch.relu(x)
        return ops.linear(y, handle_for(y), w.flatten(2)[0, :, :8])

    def pad(x, w):
        y = torch.relu(x)
        return ops.conv2d(*ops.pad(y, handle_for(y), [1, 1]), w)

    tensors = [values((2, 4, 8, 8)), values((4, 4, 3, 3))]
    check(lambda x, w: F.conv2d(x.relu(), w), conv, tensors)
    check(lambda x, w: F.linear(x.relu(), w.flatten(2)[0, :, :8]), linear, tensors)
    check(lambda x, w: F.conv2d(F.pad(x.relu(), [1, 1]), w), pad, tensors)


def test_a_handle_of_another_class_is_refused():
    with pytest.raises(RuntimeError):
        ops.conv2d(torch.ones(1, 1, 4, 4), torch.ones(3), torch.ones(1, 1, 2, 2))
    with pytest.raises(RuntimeError):
        ops.linear(torch.ones(2, 2), object(), torch.ones(2, 2))


DAMAGE = {
    "cut": lambda t: t[: len(t) // 2].clone(),
    "grown": lambda t: torch.cat([t, t]),
    "inverted": lambda t: ~t if t.dtype == torch.int64 else t,
    "another type": lambda t: t.double().clone(),
    "nothing": lambda t: t.new_empty(0),
    "strided": lambda t: t.repeat_interleave(2)[::2] if t.dim() == 1 else t,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("op", ["conv2d", "relu", "max_pool2d", "relu_max_pool2d"])
def test_a_payload_that_a_hook_damaged_raises(op, damage):
    def step(x, w):
        if op == "conv2d":
            y, handle = ops.relu(x)
            return ops.conv2d(y.detach(), handle, w)
        result = getattr(ops, op)(x, *([[2]] if "pool" in op else []))
        return result[0] if isinstance(result, tuple) else result

    def packed(tensor):
        own = tensor.dim() == 1 and tensor.dtype in (torch.int64, torch.float32)
        return DAMAGE[damage](tensor) if own else tensor

    x, w = values((2, 3, 11, 11), seed=3).requires_grad_(), values((4, 3, 3, 3)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(packed, lambda t: t):
        out = step(x, w)
    if (op, damage) in HARMLESS:
        out.sum().backward()
        return
    with pytest.raises(RuntimeError):
        out.sum().backward()


# Flipped bits of a mask are another mask: no reader can tell.
HARMLESS = {("relu", "inverted")}


# ---- hooks ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def seen_payloads(seen):
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (seen.append(t.nbytes), t.clone())[1], lambda t: t
    ):
        yield


def test_saved_tensors_hooks_see_every_payload():
    seen, kept = [], []

    def hooked(*tensors):
        with memory.track() as tracked, seen_payloads(seen):
            loss = ours(*tensors)
            kept.append(tracked.live_bytes)
        return loss

    check(eager, hooked, [t.detach() for t in parameters()])
    assert sum(seen) == pytest.approx(kept[-1], rel=0.2)


def test_save_on_cpu():
    def saved(step):
        def run(*tensors):
            with torch.autograd.graph.save_on_cpu():
                return step(*tensors)

        return run

    check(eager, saved(ours), [t.detach() for t in parameters()])


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant):
    def recomputed(step):
        def run(*tensors):
            return checkpoint(step, *tensors, use_reentrant=reentrant)

        return run

    tensors = [t.detach() for t in parameters()]
    check(recomputed(eager), recomputed(ours), tensors)
    check(eager, recomputed(ours), tensors)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_keeps_no_payload(reentrant):
    tensors = parameters()
    with memory.track() as tracked:
        loss = checkpoint(ours, *tensors, use_reentrant=reentrant, preserve_rng_state=False)
        assert tracked.live_bytes <= 64
        loss.backward()
        assert tracked.live_bytes <= 64 + sum(t.nbytes for t in tensors)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_mode_names_the_operator():
    x = values((2, 2, 6, 6), kind="specials").requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=False):
        ops.relu(x)[0].sum().backward()
    assert ops.relu(x)[0].grad_fn.name() == "fxpass::relu_backward"


def test_a_gradient_that_somebody_holds_is_not_written():
    # relu's backward may write in place; whoever kept the gradient must find it as it was.
    x = values((64, 64)).requires_grad_()
    kept = {}

    def arriving(retain):
        y, _ = ops.relu(x)
        retain(y)
        (y * 3).backward(torch.ones(64, 64))
        return y

    y = arriving(lambda y: y.retain_grad())
    assert bool((y.grad == 3).all())
    arriving(lambda y: y.register_hook(lambda g: kept.__setitem__("hook", g)))
    assert bool((kept["hook"] == 3).all())
    arriving(lambda y: y.grad_fn.register_prehook(lambda gs: kept.__setitem__("prehook", gs)))
    assert bool((kept["prehook"][0] == 3).all())
    arriving(
        lambda y: y.grad_fn.register_hook(lambda out, into: kept.__setitem__("post", (out, into)))
    )
    assert bool((kept["post"][1][0] == 3).all())
    mine = torch.full((64, 64), 3.0)
    y, _ = ops.relu(x)
    y.backward(mine)
    assert bool((mine == 3).all())
    y, _ = ops.relu(x)
    y.backward(mine.view(64, 64))  # the tensor dies, its memory does not
    assert bool((mine == 3).all())
    two = ops.relu(x)[0] + ops.relu(-x)[0]  # one gradient for two
    (gradient,) = torch.autograd.grad(two, x, mine)
    assert torch.equal(gradient, 3 * x.detach().sign())


def test_a_gradient_in_memory_of_numpy_is_not_written():
    numpy = pytest.importorskip("numpy")
    array = numpy.full((64, 64), 3, dtype=numpy.float32)
    x = values((64, 64)).requires_grad_()
    y, _ = ops.relu(x)
    y.register_hook(lambda gradient: torch.from_numpy(array))
    y.sum().backward()
    assert bool((array == 3).all())


def test_a_gradient_of_nobody_is_reused():
    x = values((256, 256)).requires_grad_()

    def peak():
        loss = (ops.relu(x)[0] * 2).sum()
        with memory.track() as tracked:
            torch.autograd.grad(loss, x)
        return tracked.peak_bytes

    assert peak() < 1.5 * x.nbytes


# ---- forward-mode AD and functional transforms ---------------------------------------------------


ALL = {**SINGLE, "conv2d and relu": lambda x: ops.conv2d(*ops.relu(x), torch.ones(2, 2, 2, 2))}
ALL_EAGER = {
    "relu": torch.relu,
    "relu_": lambda x: (x * 1).relu_(),
    "conv2d": lambda x: F.conv2d(x, torch.ones(2, 2, 2, 2)),
    "linear": lambda x: F.linear(x, torch.ones(3, 6, requires_grad=True)),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d_with_indices": lambda x: F.max_pool2d(x, 2),
    "relu_max_pool2d": lambda x: F.max_pool2d(x.relu(), 2),
    "max_pool3d": lambda x: F.max_pool3d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "pad": lambda x: F.pad(x, [1, 1, 1, 1], "reflect"),
    "conv2d and relu": lambda x: F.conv2d(x.relu(), torch.ones(2, 2, 2, 2)),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("needs", [True, False])
def test_forward_mode(name, needs):
    def tangent(op):
        def run(x):
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x) * 0.5)
                return torch.autograd.forward_ad.unpack_dual(op(dual)).tangent.detach().clone()

        return run

    check(tangent(ALL_EAGER[name]), tangent(ALL[name]), [values((2, 2, 6, 6))], needs=[needs])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALL)
def test_functional_transforms_are_right_or_raise(name):
    x = values((2, 2, 6, 6))
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.hessian, torch.func.vmap):
        def transformed(op, transform=transform):
            return transform(lambda x: op(x).pow(2).sum())(x)

        try:
            found = transformed(ALL[name])
        except (RuntimeError, NotImplementedError):
            continue
        assert torch.equal(found, transformed(ALL_EAGER[name]))


# ---- other devices -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("needs", [True, False])
def test_meta_tensors_fall_back(name, needs):
    x = torch.empty(2, 2, 6, 6, device="meta", requires_grad=needs)
    with torch.device("meta"):
        out, expected = ALL[name](x), ALL_EAGER[name](x)
        assert (out.shape, out.stride(), out.device) == (expected.shape, expected.stride(), x.device)
        if needs:
            out.sum().backward()
            assert x.grad.shape == x.shape


def test_a_gradient_with_special_values_through_the_whole_chain():
    tensors = [t.detach() for t in parameters()]
    tensors[0] = values(tensors[0].shape, kind="specials")
    for kind in ("specials", "normal"):
        check(eager, ours, tensors, upstream=Upstream(kind))
        check(eager, ours, [values(t.shape, kind="edges") for t in tensors])
