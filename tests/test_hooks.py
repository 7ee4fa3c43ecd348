"""`call_with_hooks` against `nn.Module.__call__`: same calls, same order, same results."""

import contextlib
import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.nn.modules import module as nn_module

from fxpass.runtime.hooks import call_with_hooks, has_global_hooks, has_hooks


class Part(nn.Module):
    def __init__(self, fail=False, kind="tensor"):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, -3.0]))
        self.fail, self.kind = fail, kind

    def forward(self, x, *, scale=1.0):
        if self.fail:
            raise ValueError("forward failed")
        y = x * self.weight * scale
        return {"tensor": y, "tuple": (y, y + 1), "dict": {"y": y}}[self.kind]


class Recorder:
    """Hooks that note when they run and with what, and may replace what they are given."""

    def __init__(self, module):
        self.module, self.log = module, []

    def note(self, name, module, *values):
        assert module is self.module
        self.log.append((name, repr(values)))

    def pre(self, name, result=None):
        def hook(module, args, kwargs=None):
            self.note(name, module, args, kwargs)
            return result(args, kwargs) if result else None

        return hook

    def post(self, name, result=None, raises=None):
        def hook(module, args, *rest):
            self.note(name, module, args, *rest)
            if raises:
                raise raises
            return result(rest[-1]) if result else None

        return hook

    def back(self, name, result=None):
        def hook(module, *grads):
            self.note(name, module, *grads)
            return result(grads[0]) if result else None

        return hook


def halves(grads):
    return tuple(None if g is None else g / 2 for g in grads)


def doubled(y):
    return y * 2 if isinstance(y, torch.Tensor) else y


G = nn_module
SETUPS = {
    "pre": lambda m, r: [m.register_forward_pre_hook(r.pre("pre"))],
    "pre replaces": lambda m, r: [
        m.register_forward_pre_hook(r.pre("one", lambda a, k: a[0] + 1)),
        m.register_forward_pre_hook(r.pre("tuple", lambda a, k: (a[0] * 2,))),
        m.register_forward_pre_hook(
            r.pre("kwargs", lambda a, k: (a, {"scale": 3.0})), with_kwargs=True
        ),
        m.register_forward_pre_hook(r.pre("first"), prepend=True),
    ],
    "pre returns nonsense": lambda m, r: [
        m.register_forward_pre_hook(r.pre("bad", lambda a, k: 3), with_kwargs=True)
    ],
    "post": lambda m, r: [
        m.register_forward_hook(r.post("a", doubled)),
        m.register_forward_hook(r.post("b"), with_kwargs=True),
        m.register_forward_hook(r.post("c"), prepend=True),
    ],
    "post raises": lambda m, r: [
        m.register_forward_hook(r.post("always first"), always_call=True),
        m.register_forward_hook(r.post("bad", raises=KeyError("hook"))),
        m.register_forward_hook(r.post("skipped")),
        m.register_forward_hook(r.post("always"), always_call=True, with_kwargs=True),
        m.register_forward_hook(r.post("worse", raises=OSError("late")), always_call=True),
        G.register_module_forward_hook(r.post("global"), always_call=True, with_kwargs=True),
    ],
    "always": lambda m, r: [
        G.register_module_forward_hook(r.post("global"), always_call=True, with_kwargs=True),
        G.register_module_forward_hook(r.post("bad", raises=OSError("x")), always_call=True),
        m.register_forward_hook(r.post("always", doubled), always_call=True),
    ],
    "global": lambda m, r: [
        m.register_forward_pre_hook(r.pre("own pre")),
        m.register_forward_hook(r.post("own")),
        G.register_module_forward_pre_hook(r.pre("global pre", lambda a, k: a[0] * 3)),
        G.register_module_forward_hook(r.post("global", doubled)),
        G.register_module_full_backward_pre_hook(r.back("global back pre")),
        G.register_module_full_backward_hook(r.back("global back", halves)),
        m.register_full_backward_hook(r.back("own back")),
    ],
    "full backward": lambda m, r: [
        m.register_full_backward_hook(r.back("a", halves)),
        m.register_full_backward_hook(r.back("b")),
    ],
    "backward pre": lambda m, r: [m.register_full_backward_pre_hook(r.back("pre", halves))],
    "backward both": lambda m, r: [
        m.register_full_backward_pre_hook(r.back("pre", halves)),
        m.register_full_backward_hook(r.back("post", halves)),
        m.register_forward_hook(r.post("forward", doubled)),
    ],
    "old backward": lambda m, r: [m.register_backward_hook(r.back("old", halves))],
    "old global backward": lambda m, r: [
        G.register_module_backward_hook(r.back("old", halves)),
    ],
}


def outcome(setup, kind, fail, needs_grad, kwargs, call):
    """All that can be seen of one call and its backward."""
    module = Part(fail, kind)
    recorder = Recorder(module)
    handles = setup(module, recorder)
    x = torch.tensor([1.5, -0.5], requires_grad=needs_grad)
    result = error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call(module, (x * 1 if needs_grad else x,), dict(kwargs))
            values = result.values() if isinstance(result, dict) else result
            sum(v.sum() for v in ([result] if kind == "tensor" else values)).backward()
        except Exception as raised:
            error = repr(raised)
        finally:
            for handle in handles:
                handle.remove()
            # Removing a global hook leaves its mark there, of which Dynamo warns for ever.
            nn_module._global_forward_hooks_with_kwargs.clear()
            nn_module._global_is_full_backward_hook = None
    messages = sorted({str(w.message) for w in caught})
    return recorder.log, repr(result), error, repr(x.grad), repr(module.weight.grad), messages


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
def test_same_as_modules_own_call(setup, kind):
    for fail, needs_grad in itertools.product([False, True], repeat=2):
        for kwargs in ({}, {"scale": 0.5}):
            eager = outcome(setup, kind, fail, needs_grad, kwargs, lambda m, a, k: m(*a, **k))
            ours = outcome(
                setup,
                kind,
                fail,
                needs_grad,
                kwargs,
                lambda m, a, k: call_with_hooks(m, m.forward, a, k),
            )
            assert ours == eager


def test_setups_run_their_hooks():
    """Otherwise the comparison above would prove nothing."""
    run = {}
    for name, setup in SETUPS.items():
        log, *_ = outcome(setup, "tensor", False, True, {}, lambda m, a, k: m(*a, **k))
        run[name] = [entry for entry, _ in log]
    assert run["backward both"] == ["forward", "pre", "post"]
    assert run["global"][:4] == ["global pre", "own pre", "global", "own"]
    assert run["global"][4:] == ["global back pre", "global back", "own back"]
    assert all(run.values())


def test_the_forward_that_is_given_runs():
    module = Part()
    module.register_forward_hook(lambda m, a, y: (m, a, y))
    assert call_with_hooks(module, lambda x: x + 1, (1,), {}) == (module, (1,), 2)
    assert call_with_hooks(Part(), lambda x, y: x + y, (1,), {"y": 2}) == 3


@pytest.mark.parametrize(
    "register",
    [
        lambda m: m.register_forward_hook(lambda *a: None),
        lambda m: m.register_forward_pre_hook(lambda *a: None),
        lambda m: m.register_full_backward_hook(lambda *a: None),
        lambda m: m.register_full_backward_pre_hook(lambda *a: None),
    ],
)
def test_has_hooks(register):
    module = nn.ReLU()
    assert not has_hooks(module)
    with contextlib.closing(_Removed(register(module))):
        assert has_hooks(module)
    assert not has_hooks(module)


@pytest.mark.parametrize(
    "register",
    [
        G.register_module_forward_hook,
        G.register_module_forward_pre_hook,
        G.register_module_full_backward_hook,
        G.register_module_full_backward_pre_hook,
    ],
)
def test_has_global_hooks(register):
    assert not has_global_hooks()
    with contextlib.closing(_Removed(register(lambda *a: None))):
        assert has_global_hooks()
    nn_module._global_is_full_backward_hook = None
    assert not has_global_hooks()


class _Removed:
    def __init__(self, handle):
        self.close = handle.remove
