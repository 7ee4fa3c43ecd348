"""fxpass.optim.in_backward equals the plain loop to the last bit."""

import copy
import gc
import io

import pytest
import torch
import torch.nn.functional as F
from _bits import examples
from _in_backward import Matrices, Net, Sparse, assert_equal, batches, plain, train
from _threads import torch_threads
from _twins import assert_same
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn, optim
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.checkpoint import checkpoint

import fxpass
from fxpass.optim._freed import FreedGradient

PLAIN = {"lr": [0.1, 0.003], "weight_decay": [0, 0.01], "maximize": [False, True]}
FOREACH = {"foreach": [None, True, False]}
FUSED = {"foreach": [None, True, False], "fused": [None, True]}
ADAM = PLAIN | {"betas": [(0.9, 0.999), (0.5, 0.6)]}
OPTIONS = {
    optim.SGD: PLAIN
    | FUSED
    | {"momentum": [0, 0.9], "dampening": [0, 0.1], "nesterov": [False, True]},
    optim.Adam: ADAM | FUSED | {"amsgrad": [False, True]},
    optim.AdamW: ADAM | FUSED | {"amsgrad": [False, True]},
    optim.Adamax: ADAM | FOREACH,
    optim.NAdam: ADAM | FOREACH | {"decoupled_weight_decay": [False, True]},
    optim.RAdam: ADAM | FOREACH | {"decoupled_weight_decay": [False, True]},
    optim.Adagrad: PLAIN | FUSED | {"lr_decay": [0, 0.1], "initial_accumulator_value": [0, 0.1]},
    optim.Adadelta: PLAIN | FOREACH | {"rho": [0.9, 0.5]},
    optim.RMSprop: PLAIN | FOREACH | {"momentum": [0, 0.9], "centered": [False, True]},
    optim.Rprop: {"lr": [0.01], "maximize": [False, True], "etas": [(0.5, 1.2), (0.3, 2)]}
    | FOREACH,
    optim.ASGD: PLAIN | FOREACH | {"t0": [1e6, 1], "lambd": [1e-4, 0.1]},
    optim.SparseAdam: {"lr": [0.1], "betas": [(0.9, 0.99)], "maximize": [False, True]},
    optim.Adafactor: PLAIN | FOREACH | {"d": [1.0, 2.0], "eps": [(None, 1e-3), (1e-7, 1e-3)]},
    optim.Muon: {"lr": [0.1], "weight_decay": [0, 0.1], "nesterov": [False, True]}
    | {"adjust_lr_fn": [None, "match_rms_adamw"]},
}
MODELS = {optim.SparseAdam: Sparse, optim.Muon: Matrices}


def test_the_table_is_that_of_torch():
    """A new optimizer of torch's is looked at before it is let in."""
    of_torch = {
        kind
        for kind in vars(optim).values()
        if isinstance(kind, type) and issubclass(kind, optim.Optimizer)
    }
    assert of_torch - {optim.Optimizer, optim.LBFGS} == set(OPTIONS)
    assert set(fxpass.optim._per_parameter.KNOWN) == set(OPTIONS)


@pytest.mark.parametrize("kind", OPTIONS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@examples(6)
def test_every_optimizer_with_its_options(kind, data):
    options = {name: data.draw(st.sampled_from(values)) for name, values in OPTIONS[kind].items()}
    model, named = MODELS.get(kind, Net), data.draw(st.booleans())
    dtype = torch.float32 if kind is optim.Muon else data.draw(st.sampled_from(DTYPES))

    def make_model():
        return model().to(dtype) if model is Net else model()

    def make(module):
        given = module.named_parameters() if named else module.parameters()
        return kind(given, **options)

    try:
        make(model())
    except (ValueError, RuntimeError):  # options that torch takes only apart
        assume(False)
    step = data.draw(st.sampled_from([typed(dtype), typed(dtype, set_to_none=False)]))
    if model is Sparse:
        step = plain
    assert_equal(make_model, make, step=step, compiled=data.draw(st.booleans()))


DTYPES = (torch.float32, torch.float32, torch.float64)


def typed(dtype, set_to_none=True):
    def step(model, optimizer, x):
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = F.cross_entropy(model(x.to(dtype)), torch.arange(len(x)) % 4)
        loss.backward()
        optimizer.step()
        return loss

    return step


def momentum(model):
    return optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def adam(model):
    return optim.Adam(model.named_parameters(), lr=0.01)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("make", [momentum, adam])
def test_ten_steps(make, compiled):
    assert_equal(Net, make, steps=10, compiled=compiled)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_groups_with_rates_of_their_own_schedulers_and_hooks(compiled):
    seen = []

    def make(model):
        groups = [
            {"params": list(model.conv.parameters()), "lr": 0.2, "weight_decay": 0.1},
            {"params": [p for n, p in model.named_parameters() if not n.startswith("conv")]},
        ]
        optimizer = optim.SGD(groups, lr=0.05, momentum=0.5)
        optimizer.schedulers = [
            optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=9),
            optim.lr_scheduler.StepLR(optimizer, 2),
        ]
        optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
        optimizer.register_step_post_hook(lambda *_: seen.append("after"))
        return optimizer

    def step(model, optimizer, x):
        loss = plain(model, optimizer, x)
        for scheduler in optimizer.schedulers:  # warns if step() did not come before
            scheduler.step()
        return loss, [s.get_last_lr() for s in optimizer.schedulers]

    everywhere = register_optimizer_step_post_hook(lambda *_: seen.append("everywhere"))
    try:
        assert_equal(Net, make, step=step, steps=4, compiled=compiled)
    finally:
        everywhere.remove()
    assert seen == ["before", "after", "everywhere"] * 12  # once a step, in all three trainings


def test_a_scheduler_made_after_it():
    def step(model, optimizer, x):
        if not hasattr(optimizer, "scheduler"):
            optimizer.scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        loss = plain(model, optimizer, x)
        optimizer.scheduler.step()
        return loss

    assert_equal(Net, momentum, step=step)


def test_a_closure():
    def step(model, optimizer, x):
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), torch.arange(len(x)) % 4)
            loss.backward()
            return loss

        return optimizer.step(closure), optimizer.step(closure=closure)

    assert_equal(Net, adam, step=step)


@pytest.mark.parametrize("zero", [nn.Module.zero_grad, optim.Optimizer.zero_grad])
@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("foreach", [True, False])
def test_zero_grad_after_step(zero, set_to_none, foreach):
    def step(model, optimizer, x):
        loss = F.cross_entropy(model(x), torch.arange(len(x)) % 4)
        loss.backward()
        optimizer.step()
        zero(model if zero is nn.Module.zero_grad else optimizer, set_to_none=set_to_none)
        return loss

    def make(model):
        return optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=foreach)

    assert_equal(Net, make, step=step)


def test_parameters_that_come_and_go():
    """Frozen, unfrozen, added by add_param_group: what has no hook yet is updated by step()."""

    def make(model):
        return optim.Adam([*model.conv.parameters(), *model.frozen.parameters()], lr=0.01)

    def step(model, optimizer, x):
        turn = optimizer.turn = getattr(optimizer, "turn", 0) + 1
        if turn == 2:
            optimizer.add_param_group({"params": list(model.head.parameters()), "lr": 0.1})
            model.conv.bias.requires_grad_(False)
        if turn == 3:
            model.frozen.requires_grad_(True)
        if turn == 5:
            model.conv.bias.requires_grad_(True)
        for p in model.turn.parameters():
            p.grad = None
        return plain(model, optimizer, x)

    assert_equal(Net, make, step=step, steps=7)


def test_what_was_added_later_is_freed_too_from_its_second_step_on():
    model = Net()
    optimizer = optim.SGD(model.conv.parameters(), lr=0.1)
    fxpass.optim.in_backward(optimizer)
    optimizer.add_param_group({"params": list(model.head.parameters())})
    kinds = []
    for x in batches(2):
        plain(model, optimizer, x)
        kinds.append(type(model.head.weight.grad))
        model.zero_grad()
    assert kinds == [torch.Tensor, FreedGradient]


def test_a_parameter_taken_out_keeps_its_gradient():
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    fxpass.optim.in_backward(optimizer)
    del optimizer.param_groups[0]["params"][6]
    before = model.head.weight.clone()
    plain(model, optimizer, next(batches(1)))
    assert type(model.head.weight.grad) is torch.Tensor
    assert model.head.weight.equal(before)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed(reentrant):
    class Checkpointed(Net):
        def forward(self, x):
            def first(x):
                return F.max_pool2d(F.relu(self.conv(x)), 2).mean((2, 3))

            x = checkpoint(first, x.requires_grad_(), use_reentrant=reentrant)
            x = checkpoint(lambda x: F.relu(self.turn(x)), x, use_reentrant=reentrant)
            return self.head(x)

    assert_equal(Checkpointed, adam)


def test_tied_weights_in_two_checkpoints():
    class Tied(Net):
        def forward(self, x):
            x = self.conv(x).mean((2, 3))
            for _ in range(2):
                x = checkpoint(lambda x: F.relu(self.turn(x)), x, use_reentrant=False)
            return self.head(x)

    assert_equal(Tied, adam)


def test_a_model_captured_by_dynamo(fresh_dynamo):
    def make_model():
        return torch.compile(Net(), backend="fxpass")

    assert_equal(make_model, adam)


def test_a_gradient_changed_by_hooks():
    def halve(parameter):
        parameter.grad.mul_(0.5)

    def make(model):
        if not hasattr(model, "hooked"):
            model.hooked = True
            model.head.weight.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
            model.turn.weight.register_post_accumulate_grad_hook(halve)
        return adam(model)

    assert_equal(Net, make)


def test_weights_that_are_computed():
    def make_model():
        model = Net()
        nn.utils.parametrizations.weight_norm(model.turn)
        return model

    assert_equal(make_model, adam)


def test_complex_parameters_and_rates_that_are_tensors():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.randn(4, 192, dtype=torch.complex64))

        def forward(self, x):
            return (x.flatten(1).cfloat() @ self.a.t()).abs()

    def make(model):
        return optim.Adam(model.parameters(), lr=torch.tensor(0.01))

    assert_equal(Complex, make)


def test_autograd_grad_changes_nothing():
    model = Net()
    optimizer = momentum(model)
    fxpass.optim.in_backward(optimizer)
    before = copy.deepcopy(model.state_dict())
    x = next(batches(1))
    torch.autograd.grad(model(x).sum(), [model.conv.weight, model.head.weight])
    assert all(before[n].equal(p) for n, p in model.named_parameters())
    assert not optimizer.state
    assert model.conv.weight.grad is None


def test_a_gradient_penalty():
    def step(model, optimizer, x):
        optimizer.zero_grad()
        model.eval()
        x.requires_grad_()
        loss = model(x).logsumexp(1).sum()
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        total = loss + slope.square().sum()
        total.backward()
        optimizer.step()
        return total

    assert_equal(Net, adam, step=step)


def test_backward_under_autocast_and_step_outside():
    def step(model, optimizer, x):
        optimizer.zero_grad()
        with torch.autocast("cpu"):
            loss = F.cross_entropy(model(x), torch.arange(len(x)) % 4)
            loss.backward()
        optimizer.step()
        return loss

    def make(model):
        return optim.Adafactor(model.parameters(), lr=0.1)  # has a matrix product

    assert_equal(Net, make, step=step)


def test_converted_in_between():
    def step(model, optimizer, x):
        turn = optimizer.turn = getattr(optimizer, "turn", 0) + 1
        dtype = torch.float32 if turn == 1 else torch.float64
        loss = typed(dtype)(model, optimizer, x)
        model.double()
        return loss

    assert_equal(Net, lambda model: optim.SGD(model.parameters(), lr=0.1), step=step)


# ---- the optimizer stays an optimizer ---------------------------------------------------------


def test_states_are_saved_loaded_and_copied_in_between():
    def step(model, optimizer, x):
        loss = plain(model, optimizer, x)
        file = io.BytesIO()
        torch.save([optimizer.state_dict(), model.state_dict()], file)
        file.seek(0)
        states = torch.load(file)
        plain(model, optimizer, x)
        optimizer.load_state_dict(states[0])
        model.load_state_dict(states[1])
        copies = copy.deepcopy([model, optimizer])
        assert not copies[1]._optimizer_step_pre_hooks
        assert not copies[0].conv.weight._post_accumulate_grad_hooks
        torch.save([model, optimizer], io.BytesIO())
        return loss

    assert_equal(Net, adam, step=step)


def test_removed_it_is_the_plain_loop_again():
    torch.manual_seed(0)
    model = Net()
    optimizer = momentum(model)
    handle = fxpass.optim.in_backward(optimizer)
    x = next(batches(1))
    optimizer.zero_grad()
    F.cross_entropy(model(x), torch.arange(6) % 4).backward()
    handle.remove()  # in the midst of a step, which step() ends
    updated = model.conv.weight.clone()
    optimizer.step()
    assert model.conv.weight.equal(updated)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not model.conv.weight._post_accumulate_grad_hooks
    optimizer.zero_grad(set_to_none=False)
    assert not model.conv.weight.grad.any()
    model(x).sum().backward()
    assert model.conv.weight.equal(updated)
    optimizer.step()
    assert not model.conv.weight.equal(updated)
    handle.remove()


def test_again_after_it_was_removed():
    model = Net()
    optimizer = momentum(model)
    for _ in range(2):
        with fxpass.optim.in_backward(optimizer):
            plain(model, optimizer, next(batches(1)))


def test_a_dropped_optimizer_updates_nothing_more():
    def step(model, optimizer, x):
        del optimizer
        second = optim.Adam(model.parameters(), lr=0.1)
        return plain(model, second, x)

    seen = []
    for inside in (False, True):
        torch.manual_seed(0)
        model = Net()
        gc.disable()  # reference counts alone end it
        try:
            first = momentum(model)
            if inside:
                fxpass.optim.in_backward(first)
            del first
            seen.append(step(model, None, next(batches(1))))
        finally:
            gc.enable()
    assert seen[0].equal(seen[1])
    fxpass.optim.in_backward(momentum(model))  # no error: nobody else updates the parameters


def test_a_handle_keeps_no_optimizer_alive():
    model = Net()
    optimizer = momentum(model)
    handle = fxpass.optim.in_backward(optimizer)
    del optimizer
    before = copy.deepcopy(model.state_dict())
    model.head(torch.ones(1, 6)).sum().backward()
    assert model.head.weight.equal(before["head.weight"])
    assert type(model.head.weight.grad) is torch.Tensor
    handle.remove()


def test_a_gradient_that_a_hook_has_taken():
    def take(parameter):
        parameter.grad = None

    def make(model):
        model.head.weight.register_post_accumulate_grad_hook(take)
        return momentum(model)

    assert_equal(Net, make)


def test_verify_and_profile_update_nothing():
    torch.manual_seed(0)
    model = Net()
    optimizer = momentum(model)
    fxpass.optim.in_backward(optimizer)
    x = next(batches(1))
    plain(model, optimizer, x)
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    fxpass.verify(model, x)
    fxpass.profile(model, x)
    fxpass.compile(model, (x,))
    after = [model.state_dict(), optimizer.state_dict()]
    assert str(before) == str(after)
    assert type(model.conv.weight.grad) is FreedGradient
    plain(model, optimizer, x)


# ---- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@torch_threads(1)
def test_no_two_gradients_of_layers_are_alive_together(compiled, no_garbage):
    width, layers = 256, 12
    one = width * width * 4

    def peak(inside):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
        if compiled:
            model = fxpass.compile(model)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if inside:
            fxpass.optim.in_backward(optimizer)
        x = torch.ones(1, width)
        for _ in range(2):  # makes the state
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        optimizer.zero_grad()
        with fxpass.memory.track() as memory:
            model(x).square().sum().backward()
            live = memory.live_bytes
            optimizer.step()
        return memory.peak_bytes, live

    (plain_peak, plain_live), (inside_peak, inside_live) = peak(False), peak(True)
    assert plain_live >= layers * one
    assert inside_live == 0
    assert plain_peak - inside_peak >= (layers - 2) * one


def test_the_same_bits_on_two_threads():
    with torch_threads(2):
        expected = train(Net, adam, inside=False)
        assert_same(expected, train(Net, adam, inside=True))
