"""torch.func: `functional_call` is compiled, with the tensors given; transforms run eager."""

import copy

import pytest
import torch
import torch.nn.functional as F
from _blocks import NETWORKS, image, made
from _dynamo import OF_DYNAMO
from _exact import weighted
from _twins import Net, Twins, X, assert_same, bits, is_compiled, operators, saved_bytes
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn.utils import parametrize

import fxpass

pytestmark = [
    pytest.mark.usefixtures("fresh_dynamo", "one_thread"),
    # Python's own decompositions for forward mode are scripted when they are first used.
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
    *OF_DYNAMO,
]


def others(model, scale=2.0):
    """Tensors to stand for the model's, of which the weights are to be trained."""
    found = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        floating = tensor.is_floating_point()
        found[name] = tensor.detach() * scale if floating else tensor.clone()
        found[name].requires_grad_(floating and "running" not in name)
    return found


def called_with(model, state, x):
    """The output, the gradients of the tensors given, and what became of them."""
    torch.manual_seed(0)
    output = functional_call(model, state, (x,))
    wanted = [t for t in state.values() if t.requires_grad]
    gradients = torch.autograd.grad(weighted(output), wanted)
    return output, gradients, {n: t.detach() for n, t in state.items()}


# ---- functional_call ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual", "dense with dropout", "squeeze-excite", "inception"])
def test_functional_call_takes_the_tensors_given(name):
    model, x = made(name), image()
    compiled = fxpass.compile(copy.deepcopy(model))
    before = bits(dict(compiled.state_dict()))
    for scale in (2.0, -0.5, 1.0):
        eager, ours = (called_with(m, others(m, scale), x) for m in (model, compiled))
        assert is_compiled(ours[0])
        assert_same(bits(eager), bits(ours))
    assert_same(before, bits(dict(compiled.state_dict())))  # the model's own are as they were


def test_functional_call_keeps_as_little():
    model, x = made("residual"), image()

    class Called(nn.Module):
        def __init__(self, called):
            super().__init__()
            self.called, self.state = [called], others(called)

        def forward(self, x):
            return functional_call(self.called[0], self.state, (x,))

    compiled = fxpass.compile(model)
    assert saved_bytes(Called(compiled), x) == saved_bytes(compiled, x)
    assert saved_bytes(compiled, x) < 0.8 * saved_bytes(Called(model), x)


def test_functional_call_with_some_tensors_and_keywords():
    def use(model):
        weight = torch.linspace(-1, 1, 8 * 8 * 9).view(8, 8, 3, 3).requires_grad_()
        torch.manual_seed(0)
        output = functional_call(model, {"conv2.weight": weight}, (), {"x": X})
        return output, torch.autograd.grad(output.sum(), [weight, model.conv1.weight])

    twins = Twins()
    assert_same(*(bits(use(m)) for m in (twins.eager, twins.compiled)))
    assert "conv2d" in operators(twins.compiled)
    twins.step()


def test_functional_call_of_frozen_tensors_keeps_nothing():
    twins = Twins()
    state = {n: t.detach() for n, t in others(twins.compiled).items()}
    output = functional_call(twins.compiled, state, (X,))
    assert not output.requires_grad


def test_functional_call_of_tied_and_parametrized_weights():
    class Half(nn.Module):
        def forward(self, weight):
            return weight / 2

    def make():
        model = Net()
        model.conv2.weight = nn.Parameter(torch.randn(8, 8, 3, 3))
        parametrize.register_parametrization(model.conv2, "weight", Half())
        return model

    twins = Twins(make)
    assert_same(*(bits(called_with(m, others(m), X)) for m in (twins.eager, twins.compiled)))
    twins.step()


def test_functional_call_under_dynamo():
    model, x = made("residual"), image()
    called = torch.compile(lambda state, x: functional_call(model, state, (x,)), backend="fxpass")
    for scale in (2.0, -0.5):
        state = others(model, scale)
        output = called(state, x)
        assert is_compiled(output)
        wanted = [t for t in state.values() if t.requires_grad]
        eager = called_with(model, others(model, scale), x)
        assert_same(bits(eager[:2]), bits((output, torch.autograd.grad(weighted(output), wanted))))


# ---- transforms ---------------------------------------------------------------------------------


def parameters_of(model):
    return {n: p.detach() for n, p in model.named_parameters()}


def loss_of(model, parameters, x):
    return functional_call(model, parameters, (x,)).square().sum()


def gradients(model, x):
    return grad(lambda p: loss_of(model, p, x))(parameters_of(model))


def per_sample_gradients(model, x):
    one = grad(lambda p, x: loss_of(model, p, x[None]))
    return vmap(one, in_dims=(None, 0), randomness="different")(parameters_of(model), x)


def pulled_back(model, x):
    output, pull = vjp(lambda p: functional_call(model, p, (x,)), parameters_of(model))
    return output, pull(torch.ones_like(output))


def pushed_forward(model, x):
    tangents = {n: torch.ones_like(p) for n, p in parameters_of(model).items()}
    call = jvp(lambda p: functional_call(model, p, (x,)), (parameters_of(model),), (tangents,))
    return call


def an_ensemble(model, x):
    state = {n: torch.stack([p, p * 2]) for n, p in parameters_of(model).items()}
    return vmap(lambda p: functional_call(model, p, (x,)), randomness="different")(state)


def jacobians(model, x):
    model.drop.eval()  # jacfwd and hessian draw nothing at random
    bias = {"head.bias": model.head.bias.detach()}
    of = lambda p: functional_call(model, p, (x[:1],))  # noqa: E731
    return jacrev(of)(bias), jacfwd(of)(bias), hessian(lambda p: of(p).square().sum())(bias)


def in_forward_mode(model, x):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        made = torch.autograd.forward_ad.unpack_dual(model(dual))
        return made.primal, made.tangent


TRANSFORMS = (
    *(gradients, per_sample_gradients, pulled_back, pushed_forward, an_ensemble, jacobians),
    in_forward_mode,
)


@pytest.mark.parametrize("use", TRANSFORMS, ids=lambda use: use.__name__)
@pytest.mark.parametrize("training", [False, True])
def test_transforms_equal_eager(use, training):
    twins = Twins()
    twins.each(lambda m: m.train(training))
    twins.each(lambda m: m.bn.eval())  # vmap cannot write to the statistics
    seen = []
    for model in (twins.eager, twins.compiled):
        torch.manual_seed(0)
        seen.append(bits(use(model, X)))
    assert_same(*seen)
    assert_same(*(bits(dict(m.state_dict())) for m in (twins.eager, twins.compiled)))
    twins.step()  # and compiled again
    assert operators(twins.compiled)


@pytest.mark.parametrize("use", [gradients, per_sample_gradients, pulled_back, pushed_forward])
def test_transforms_of_a_model_under_dynamo(use):
    torch.manual_seed(0)
    model = Net().eval()
    eager = use(model, X)
    model.compile(backend="fxpass")
    assert is_compiled(model(X))
    assert_same(bits(eager), bits(use(model, X)))


def test_every_network_per_sample():
    for name in NETWORKS:
        model, x = made(name).eval(), image().detach()
        if "stochastic" in name or "dropped" in name:
            continue
        compiled = fxpass.compile(copy.deepcopy(model))
        assert_same(*(bits(per_sample_gradients(m, x)) for m in (model, compiled)))


def test_a_norm_of_gradients_with_eager():
    """The way out for double backward, through functional_call too."""

    def use(model):
        state = others(model)
        output = functional_call(model, state, (X,))
        wanted = [t for n, t in state.items() if n.endswith("weight")]
        first = torch.autograd.grad(F.softplus(output).sum(), wanted, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), wanted)

    twins = Twins()
    twins.each(lambda m: m.eval())
    with twins.compiled.eager():
        ours = use(twins.compiled)
    assert_same(bits(use(twins.eager)), bits(ours))
