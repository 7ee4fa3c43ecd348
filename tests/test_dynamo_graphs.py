"""What Dynamo's graphs have and our own capture's have not: modes, checkpoints, broken graphs."""

import functools

import pytest
import torch
import torch.nn.functional as F
from _bits import values
from _blocks import NETWORKS, image, made
from _dynamo import OF_DYNAMO, Parts, X, assert_dynamo_exact, by_dynamo, plain
from _twins import assert_same, bits, saved_bytes
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import fxpass

pytestmark = [pytest.mark.usefixtures("fresh_dynamo", "one_thread"), *OF_DYNAMO]


@pytest.mark.parametrize("name", NETWORKS)
def test_known_networks(name):
    model, x = made(name), image()
    compiled = assert_dynamo_exact(model, x)
    # What Dynamo tells of the sizes may make a better plan.
    assert saved_bytes(compiled, x) <= saved_bytes(fxpass.compile(model), x)


# ---- regions ------------------------------------------------------------------------------------


def relu_without_gradients(m, x):
    with torch.no_grad():
        y = F.relu(m.a(x))
    return m.b(y)


def batch_norm_without_gradients(m, x):
    with torch.no_grad():
        y = m.bn(m.a(x))
    return m.b(F.silu(y))


def activation_without_gradients(m, x):
    y = m.bn(m.a(x))
    with torch.no_grad():
        z = F.silu(y)
    return m.b(z)


def pool_without_gradients(m, x):
    y = F.relu(m.a(x))
    with torch.no_grad():
        z = F.max_pool2d(y, 2)
    return m.b(z)


def pool_behind_a_relu_without_gradients(m, x):
    y = m.a(x)
    with torch.no_grad():
        z = F.relu(y)
    return m.b(F.max_pool2d(z, 2))


def gradients_again(m, x):
    with torch.no_grad():
        y = F.relu(m.a(x))
        with torch.enable_grad():
            z = F.relu(m.bn(m.b(y)))
    return m.c(z)


def a_mode_set_by_hand(m, x):
    torch.set_grad_enabled(False)
    y = F.relu(m.bn(m.a(x)))
    torch.set_grad_enabled(True)
    return m.b(F.hardswish(m.bn2(m.c(y))))


def inference(m, x):
    with torch.inference_mode():
        scale = x.mean()
    return m.b(F.relu(m.a(x))) * float(scale.shape == ())


def all_under_autocast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.c(F.relu(m.b(F.relu(m.bn(m.a(x)))) + x))


def activation_outside_of_autocast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = m.bn(m.a(x))
    y = F.silu(y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = F.relu(m.b(y))
    return m.c(F.max_pool2d(z, 2).float())


def activation_inside_of_autocast(m, x):
    y = m.bn(m.a(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.b(F.gelu(F.silu(y)))


def autocast_off_in_between(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = F.relu(m.bn(m.a(x)))
        with torch.autocast("cpu", enabled=False):
            y = m.b(F.relu(y.float()) + x)
        return m.c(F.relu(m.b(y)))


REGIONS = (
    *(relu_without_gradients, batch_norm_without_gradients, activation_without_gradients),
    *(
        pool_without_gradients,
        pool_behind_a_relu_without_gradients,
        gradients_again,
        a_mode_set_by_hand,
        inference,
        all_under_autocast,
    ),
    *(activation_outside_of_autocast, activation_inside_of_autocast, autocast_off_in_between),
)


@pytest.mark.parametrize("forward", REGIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("needs", [True, False])
def test_regions(forward, needs):
    assert_dynamo_exact(Parts(forward), X.clone().requires_grad_(needs))


@pytest.mark.parametrize("forward", [all_under_autocast, autocast_off_in_between])
def test_regions_under_autocast_are_compressed(forward):
    model = Parts(forward)
    assert saved_bytes(by_dynamo(model), X) < 0.65 * saved_bytes(model, X)


def test_autocast_around_the_call():
    model = Parts(plain)
    compiled = by_dynamo(model)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert_same(bits(model(X)), bits(compiled(X)))


# ---- checkpoints --------------------------------------------------------------------------------


def dropout_inside(m, x, **how):
    return m.c(F.relu(m.b(checkpoint(lambda x: m.drop(F.relu(m.a(x))), x, **how))))


def batch_norm_inside(m, x, **how):
    return m.c(F.relu(m.b(checkpoint(lambda x: F.relu(m.bn(m.a(x))), x, **how))))


def arguments_and_captured_values(m, x, **how):
    y = F.relu(m.a(x))
    z = m.bn(y)
    inner = checkpoint(lambda y, k: m.drop(F.relu(m.bn2(m.b(y)) + z)) * k, y, 2.0, **how)
    return m.c(inner)


def broken_inside(m, x, **how):
    def inner(x):
        y = F.relu(m.bn(m.a(x)))
        torch._dynamo.graph_break()
        return m.drop(F.relu(m.b(y)))

    return m.c(F.relu(checkpoint(inner, x, **how)))


CHECKPOINTED = (dropout_inside, batch_norm_inside, arguments_and_captured_values, broken_inside)


@pytest.mark.parametrize("forward", CHECKPOINTED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dynamic", [None, True])
def test_checkpoints_recompute_as_eager_does(forward, dynamic):
    model = Parts(functools.partial(forward, use_reentrant=False))
    assert_dynamo_exact(model, X, dynamic=dynamic)


@pytest.mark.parametrize("forward", [dropout_inside, batch_norm_inside])
def test_reentrant_checkpoints(forward):
    model = Parts(functools.partial(forward, use_reentrant=True))
    assert_dynamo_exact(model, X.clone().requires_grad_())


def test_a_checkpoint_keeps_no_more_than_in_eager():
    model = Parts(functools.partial(dropout_inside, use_reentrant=False))
    assert saved_bytes(by_dynamo(model), X) < saved_bytes(model, X)


def keep_convolutions(context, op, *args, **kwargs):
    kept = op == torch.ops.aten.convolution.default
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


@pytest.mark.filterwarnings("ignore:Detected that context_fn")
def test_selective_checkpoints():
    contexts = functools.partial(create_selective_checkpoint_contexts, keep_convolutions)
    model = Parts(functools.partial(batch_norm_inside, use_reentrant=False, context_fn=contexts))
    assert_dynamo_exact(model, X)


# ---- what the passes do not know ----------------------------------------------------------------


class Scaled(torch.autograd.Function):
    """A ReLU with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x > 0) * 1.5


def a_function_of_the_users(m, x):
    return m.b(Scaled.apply(F.relu(m.bn(m.a(x))))) + Scaled.apply(x)


def a_gradient_inside(m, x):
    gradient = torch.func.grad(lambda z: F.relu(m.a(z)).sum())(x.detach())
    return m.b(F.relu(gradient))


def vmap_inside(m, x):
    sums = torch.func.vmap(lambda z: F.relu(z * 2).sum())(x)
    return m.b(F.relu(m.bn(m.a(x)))) * sums.mean()


def a_hook_on_a_value(m, x):
    y = F.relu(m.a(x))
    y.register_hook(lambda gradient: gradient * 2)
    return m.b(y)


def a_condition(m, x):
    return torch.cond(x.sum() > 0, lambda x: F.relu(m.a(x)), lambda x: F.silu(m.a(x)), (x,))


def inputs_and_views_returned(m, x):
    y = F.relu(m.a(x))
    return x, y, y.view(-1), m.b(y), x[0]


def weights_computed(m, x):
    weight = F.relu(m.a.weight) * torch.sigmoid(m.b.weight)
    return F.conv2d(F.relu(x), weight, m.a.bias + m.b.bias)


def many_readers(m, x):
    y = F.relu(m.bn(m.a(x)))
    return m.a(y) + m.b(y) + F.silu(y) * y + y


def buffers_written(m, x):
    y = F.relu(m.bn(m.a(x)))
    m.bn2.running_mean.mul_(0.9).add_(y.mean((0, 2, 3)).detach(), alpha=0.1)
    return m.b(m.bn2(y))


def written_in_place(m, x):
    x = x.clone()
    x += 1
    y = m.a(x)
    z = F.relu(y + x * 2).clone()
    z[:, 0] = 0
    return m.b(z)


def saved_elsewhere(m, x):
    with torch.autograd.graph.save_on_cpu():
        y = F.relu(m.bn(m.a(x)))
    return m.b(F.relu(y))


OTHERS = (
    *(a_function_of_the_users, a_gradient_inside, vmap_inside, a_hook_on_a_value, a_condition),
    *(inputs_and_views_returned, weights_computed, many_readers, buffers_written),
    *(written_in_place, saved_elsewhere),
)


@pytest.mark.parametrize("forward", OTHERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dynamic", [None, True])
def test_what_stays_as_it_is(forward, dynamic):
    assert_dynamo_exact(Parts(forward), X.clone().requires_grad_(), dynamic=dynamic)


# ---- graphs in several pieces -------------------------------------------------------------------


def broken(m, x):
    y = F.relu(m.bn(m.a(x)))
    torch._dynamo.graph_break()
    return m.b(y) + y


def broken_and_written(m, x):
    y = F.relu(m.bn(m.a(x))) + 0
    torch._dynamo.graph_break()
    y += 1
    return m.b(y)


def not_compiled_inside(m, x):
    @torch.compiler.disable
    def double(y):
        return y * 2

    return m.c(F.relu(double(F.relu(m.bn(m.a(x))))))


@pytest.mark.parametrize("forward", [broken, broken_and_written, not_compiled_inside])
def test_broken_graphs(forward):
    assert_dynamo_exact(Parts(forward), X)


def test_a_view_of_an_input_written_to():
    """Eager keeps nothing of y for `y + y`; a handle on y would see the write to z."""

    def forward(m, x):
        y = m.bn(m.a(x))
        z = y.view(-1)
        torch._dynamo.graph_break()
        a = m.b(F.relu(y + y))
        z += 1
        return a + m.c(y)

    assert_dynamo_exact(Parts(forward), X)


# ---- modules ------------------------------------------------------------------------------------


def network():
    return nn.Sequential(
        *(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(8, 8, 1), nn.Dropout(0.3), nn.ReLU6(), nn.Conv2d(8, 8, 1)),
    )


def hooked(model):
    model[3].register_forward_hook(lambda module, args, output: output * 2)
    model[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model[6].weight.register_hook(lambda gradient: gradient * 2)


def backward_hooked(model):
    model[3].register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 2,))


def parametrized(model):
    nn.utils.parametrizations.weight_norm(model[3])
    nn.utils.parametrizations.spectral_norm(model[0])


def pruned(model):
    prune.l1_unstructured(model[3], "weight", 0.5)


def shared(model):
    model[6] = model[9]
    model[3].weight = model[0].weight


def frozen(model):
    model[3].requires_grad_(False)
    model[1].eval()


CHANGES = (hooked, backward_hooked, parametrized, pruned, shared, frozen)


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_modules_of_all_kinds(change):
    torch.manual_seed(0)
    model = network()
    change(model)
    assert_dynamo_exact(model, X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    assert_dynamo_exact(network().to(dtype), X.to(dtype))


def test_channels_last():
    x = values(X.shape, layout="channels_last")
    model = network().to(memory_format=torch.channels_last)
    compiled = assert_dynamo_exact(model, x)
    assert saved_bytes(compiled, x) < 0.5 * saved_bytes(model, x)
