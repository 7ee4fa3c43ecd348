"""The backend as a user meets it: by its name, in every mode, with the errors it raises."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from _dynamo import OF_DYNAMO, Parts, X, assert_dynamo_exact, by_dynamo, plain
from _exact import assert_nothing_left
from _twins import assert_same, bits, is_compiled, saved_bytes
from torch import nn

import fxpass
from fxpass._preserved import preserved
from fxpass.dynamo import backend

pytestmark = [pytest.mark.usefixtures("fresh_dynamo", "one_thread"), *OF_DYNAMO]


def test_dynamo_knows_it_by_name():
    assert "fxpass" in torch._dynamo.list_backends()
    assert torch._dynamo.lookup_backend("fxpass") is backend


@pytest.mark.parametrize("arguments", [{}, {"fullgraph": True}, {"dynamic": True}])
def test_it_keeps_as_little_as_our_own_capture(arguments):
    model = Parts(plain)
    compiled = by_dynamo(model, **arguments)
    ours = saved_bytes(fxpass.compile(model), X)
    assert ours < 0.7 * saved_bytes(model, X)
    assert saved_bytes(compiled, X) == ours
    assert_dynamo_exact(model, X)


def test_the_sizes_that_dynamo_knows_make_the_plan():
    def forward(m, x):
        return m.b(F.relu(m.rows(x) + m.columns(x)))  # a row and a column make a whole image

    model = Parts(forward)
    model.rows, model.columns = nn.Conv2d(8, 8, (1, 8)), nn.Conv2d(8, 8, (8, 1))
    compiled = by_dynamo(model)
    output = compiled(X).nbytes
    kept, own = (saved_bytes(m, X) - output for m in (compiled, fxpass.compile(model)))
    assert kept < 0.6 * own


@pytest.mark.parametrize("setting", [{"options": {"level": 3}}, {"mode": "reduce-overhead"}])
def test_settings_that_it_does_not_have(setting):
    compiled = torch.compile(Parts(plain), backend="fxpass", **setting)
    name = next(iter(setting))
    with pytest.raises(RuntimeError, match=f"expected neither mode nor options, got {name}="):
        compiled(X)


def test_a_function():
    weight = torch.ones(4, 4, requires_grad=True)
    function = torch.compile(lambda x: F.linear(F.relu(x @ weight), weight), backend="fxpass")
    x = torch.randn(2, 4)
    output = function(x)
    assert is_compiled(output)
    expected = torch.autograd.grad(F.linear(F.relu(x @ weight), weight).sum(), weight)
    assert_same(bits(expected), bits(torch.autograd.grad(output.sum(), weight)))


# ---- what changes between calls -----------------------------------------------------------------


def test_train_eval_and_freezing_later():
    model = Parts(plain)
    compiled = by_dynamo(model)
    for change in (
        lambda m: m.eval(),
        lambda m: m.train(),
        lambda m: m.bn.eval(),
        lambda m: m.b.requires_grad_(False),
    ):
        change(model)
        change(compiled)
        assert_dynamo_exact(model, X)
    compiled.requires_grad_(False)
    output = compiled(X)
    assert not output.requires_grad
    assert saved_bytes(compiled, X) == output.nbytes


def test_shapes_that_change_are_dynamic_then():
    model = Parts(plain)
    compiled = by_dynamo(model)
    for size in (8, 6, 9, 11):
        x = X[:, :, :size, :size].contiguous() if size <= 8 else torch.randn(4, 8, size, size)
        torch.manual_seed(0)
        eager, ours = model(x), compiled(x)
        assert_same(bits(eager), bits(ours))
        assert is_compiled(ours)
    torch.compiler.reset()
    assert_dynamo_exact(model, X, dynamic=True)


@pytest.mark.parametrize("slopes", [(0.25, 0.5, 0.125), (0.25, float("nan"), 0.5)])
def test_a_number_that_changes_is_no_constant_any_more(slopes):
    def forward(m, x):
        return m.b(F.leaky_relu(m.bn(m.a(x)), m.slope))

    model = Parts(forward)
    model.slope = slopes[0]
    compiled = by_dynamo(model, dynamic=True)
    assert saved_bytes(compiled, X) < 0.7 * saved_bytes(model, X)
    for slope in slopes:
        model.slope = compiled._orig_mod.slope = slope
        assert_same(bits(model(X)), bits(compiled(X)))


def test_the_two_zeros_are_two_numbers():
    seen = []

    def look(captured, inputs):
        seen.append((backend(captured, inputs), captured))
        return lambda *values: seen.append(values) or captured.forward(*values)

    def slope_of(x, slope):
        return F.leaky_relu(x, slope)

    torch.compile(slope_of, backend=look, dynamic=True)(X.clone().requires_grad_(), 0.25)
    (ours, captured), values = seen
    place = next(i for i, v in enumerate(values) if isinstance(v, torch.Tensor) and v.dim() == 0)
    for zero in (0.0, -0.0):
        given = [*values]
        given[place] = torch.tensor(zero, dtype=torch.float64)
        assert_same(bits(captured.forward(*given)), bits(ours(*given)))


# ---- autograd -----------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_captured_graph_runs(context, monkeypatch):
    model = Parts(plain).eval()
    compiled = by_dynamo(model)
    monkeypatch.setattr("fxpass.dynamo.compiled._rewritten", None)
    with context():
        assert_same(bits(model(X)), bits(compiled(X)))


def test_a_second_backward():
    compiled = by_dynamo(Parts(plain))
    loss = compiled(X).sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in compiled.parameters() if p.grad is not None]
    compiled.zero_grad()
    loss.backward()
    assert_same(bits(first), bits([p.grad for p in compiled.parameters() if p.grad is not None]))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_double_backward_names_the_op_and_the_way_out():
    compiled = torch.compile(Parts(plain), backend="fxpass")
    weights = list(compiled._orig_mod.a.parameters())

    def penalty():
        return torch.autograd.grad(compiled(X).square().sum(), weights, create_graph=True)

    with pytest.raises(RuntimeError, match=r"fxpass::\w+: double backward.*set_stance"):
        penalty()
    with torch.compiler.set_stance("force_eager"):
        penalty()[0].sum().backward()


def test_nothing_is_left_after_backward_while_the_loss_is_held():
    def use(compiled):
        loss = compiled(X).sum()
        loss.backward()
        compiled.zero_grad()
        del loss

    assert_nothing_left(by_dynamo(Parts(plain)), use=use)


def test_it_keeps_no_model_alive():
    model = Parts(plain)
    compiled = torch.compile(model, backend="fxpass")
    compiled(X).sum().backward()
    seen = [weakref.ref(p) for p in model.parameters()]
    del model, compiled
    gc.collect()
    assert not [ref for ref in seen if ref() is not None]


def test_a_parameter_that_eager_does_not_save_may_change():
    def forward(m, x):
        return m.b(F.relu(m.bn(m.a(x)) + m.shift))

    model = Parts(forward)
    model.shift = nn.Parameter(torch.zeros(8, 1, 1))
    compiled = by_dynamo(model)
    loss = compiled(X).sum()
    with torch.no_grad():
        compiled.shift.add_(1)
    loss.backward()


# ---- both compilers -----------------------------------------------------------------------------


def test_dynamo_over_a_compiled_module_takes_the_model():
    model = Parts(plain)
    both = torch.compile(fxpass.compile(copy.deepcopy(model)), backend="fxpass")
    output = both(X)
    assert is_compiled(output)
    assert_same(bits(model(X)), bits(output))
    torch.compiler.reset()
    other = torch.compile(fxpass.compile(copy.deepcopy(model)), backend="eager")
    output = other(X)
    assert not is_compiled(output)
    assert_same(bits(model(X)), bits(output))


def test_a_model_under_dynamo_given_to_fxpass_compile():
    model = Parts(plain)
    compiled = torch.compile(model, backend="fxpass")
    with pytest.warns(UserWarning, match="run their own forward"):
        both = fxpass.compile(compiled, example_inputs=(X,))
    assert is_compiled(both(X))
    assert_same(bits(model(X)), bits(both(X)))


def test_a_model_under_dynamo_is_put_back_as_it_was():
    compiled = torch.compile(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()), backend="fxpass")
    before = bits(dict(compiled.state_dict()))
    with preserved(compiled):
        compiled(X).sum().backward()
    assert_same(before, bits(dict(compiled.state_dict())))
    assert compiled._orig_mod[0].weight.grad is None
