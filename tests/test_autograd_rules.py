"""When the operators raise, and when a second backward is right."""

import pytest
import torch
import torch.nn.functional as F
from _bits import check, check_errors_too, difference, twin, values
from _chain import ALL_EAGER, BOTH, SINGLE, eager, ours, parameters

ops = torch.ops.fxpass

# ---- twice ---------------------------------------------------------------------------------------


def test_a_second_backward_raises_as_in_eager():
    for step in BOTH.values():
        loss = step(*parameters())
        loss.backward()
        with pytest.raises(
            RuntimeError, match="Trying to backward through the graph a second time"
        ):
            loss.backward()


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


OWN_NODES = ["relu", "relu_", "conv2d", "conv_transpose2d", "max_pool2d", "relu_max_pool2d"]


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

    check(second(ALL_EAGER[name]), second(SINGLE[name]), [values((2, 2, 6, 6))])


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
@pytest.mark.parametrize(
    "needs", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)]
)
def test_a_value_written_to_raises_where_eager_raises_and_nowhere_else(what, pair, needs):
    tensors = [values((2, 4, 9, 9)), values((4, 4, 3, 3)), values((4,))]
    done = check_errors_too(*pair, tensors, needs=[bool(n) for n in needs])
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
    check(
        lambda x, w: F.conv2d(x.relu() * 1.5, w),
        lambda x, w: stale(x, w),
        [x, w],
        needs=[False, True],
    )
