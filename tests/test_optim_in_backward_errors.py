"""fxpass.optim.in_backward: what is not exact is an error that names the way out."""

import copy
import pickle
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _in_backward import Net, Sparse, assert_equal, batches, plain
from torch import distributed, nn, optim
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import fxpass
from fxpass.optim._freed import FreedGradientError

X = next(batches(1))


def in_training(make=None, make_model=Net, **how):
    """A model and its optimizer, updated inside backward."""
    torch.manual_seed(0)
    model = make_model()
    optimizer = make(model) if make else optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    fxpass.optim.in_backward(optimizer, **how)
    return model, optimizer


def backward(model):
    model(X).square().sum().backward()


def weights(model):
    return copy.deepcopy(model.state_dict())


def same(model, before):
    return all(p.equal(before[n]) for n, p in model.named_parameters())


# ---- what needs gradients that are gone -------------------------------------------------------

READS = {
    "norm": lambda g: g.norm(),
    "+": lambda g: g + 1,
    "-": lambda g: 1 - g,
    "+=": lambda g: g.add_(1),
    "*=": lambda g: g.mul_(2),
    "out=": lambda g: torch.ones(6, out=g),
    "copy_": lambda g: torch.zeros(g.shape).copy_(g),
    "clone": lambda g: g.clone(),
    "detach": lambda g: g.detach(),
    "data": lambda g: g.data,
    "numpy": lambda g: g.numpy(),
    "asarray": np.asarray,
    "tolist": lambda g: g.tolist(),
    "item": lambda g: g.item(),
    "bool": bool,
    "iter": list,
    "index": lambda g: g[0],
    "address": lambda g: g.data_ptr(),
    "dlpack": torch.from_dlpack,
    "pickle": pickle.dumps,
    "deepcopy": copy.deepcopy,
    "to another device": lambda g: g.to("meta"),
    "foreach": lambda g: torch._foreach_add([torch.zeros(g.shape), g], 1),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reading_a_gradient(read):
    model, _ = in_training()
    backward(model)
    with pytest.raises(
        FreedGradientError, match=r"the gradient of 'conv.bias' is gone.*remove\(\)"
    ):
        read(model.conv.bias.grad)


def test_what_takes_no_memory_can_be_asked_for():
    model, _ = in_training()
    backward(model)
    gradient = model.conv.weight.grad
    assert (gradient.shape, gradient.dtype) == ((6, 3, 3, 3), torch.float32)
    assert gradient.stride() == model.conv.weight.stride()
    assert gradient.device.type == "cpu"
    assert "conv.weight" in repr(gradient)
    assert gradient.untyped_storage().nbytes() == 0


CLIPS = {
    "norm": lambda model: nn.utils.clip_grad_norm_(model.parameters(), 1.0),
    "norm, foreach": lambda model: nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True),
    "value": lambda model: nn.utils.clip_grad_value_(model.parameters(), 1.0),
    "value, foreach": lambda m: nn.utils.clip_grad_value_(m.parameters(), 1.0, foreach=True),
}


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("where", ["the loop", "a step pre-hook", "a step post-hook"])
def test_clipping(clip, where):
    model, optimizer = in_training()
    if where == "a step pre-hook":
        optimizer.register_step_pre_hook(lambda *_: clip(model))
    if where == "a step post-hook":
        optimizer.register_step_post_hook(lambda *_: clip(model))
    backward(model)
    with pytest.raises(FreedGradientError, match="clipping by norm or value"):
        clip(model) if where == "the loop" else optimizer.step()


def test_a_step_post_hook_that_was_there_before():
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: model.conv.weight.grad.norm())
    fxpass.optim.in_backward(optimizer)
    backward(model)
    with pytest.raises(FreedGradientError):
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_the_gradient_scaler(fused, unscale):
    model, optimizer = in_training(lambda m: optim.SGD(m.parameters(), lr=0.1, fused=fused))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(X).sum()).backward()
    with pytest.raises(FreedGradientError, match="GradScaler"):
        scaler.unscale_(optimizer) if unscale else scaler.step(optimizer)


def test_another_optimizer_of_the_same_parameters():
    model, _ = in_training()
    other = optim.Adam(model.parameters())
    backward(model)
    with pytest.raises(FreedGradientError):
        other.step()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_accumulation(compiled, stepped, create_graph):
    model, optimizer = in_training()
    module = fxpass.compile(model) if compiled and not create_graph else model
    backward(module)
    if stepped:
        optimizer.step()
    before = weights(model)
    with pytest.raises(FreedGradientError, match=r"A second gradient came: call optimizer.zero_gr"):
        module(X).square().sum().backward(create_graph=create_graph)
    assert same(model, before)


def test_a_step_without_zero_grad_that_reaches_other_parameters():
    model, optimizer = in_training()
    model.head(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    before = weights(model)
    with pytest.raises(FreedGradientError, match=r"gradient of 'head.weight' is gone.*zero_grad"):
        model.conv(X).sum().backward()
    assert same(model, before)


def test_two_losses_with_a_backward_each():
    model, _ = in_training()
    features = model.conv(X).mean((2, 3))
    model.head(features).sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"second gradient|modified by an inplace operation"):
        model.turn(features).sum().backward()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_retained_graph(compiled):
    """As in the plain loop: the weights that the graph has saved were changed by the first step."""
    model, optimizer = in_training()
    module = fxpass.compile(model) if compiled else model
    loss = module(X).square().sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    optimizer.zero_grad()
    before = weights(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    # The first node to run has saved the weight of the head.
    assert same(model, before)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_node_that_has_saved_a_detached_weight(compiled):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.b(F.relu(F.linear(self.a(x), self.b.weight.detach())))
            return F.relu(x)

    model, _ = in_training(make_model=Detached)
    module = fxpass.compile(model) if compiled else model
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        module(torch.ones(3, 8)).sum().backward()


def test_a_weight_in_two_reentrant_checkpoints():
    """Each has a backward of its own, with a part of the gradient."""

    class Tied(Net):
        def forward(self, x):
            x = self.conv(x).mean((2, 3))
            for _ in range(2):
                x = checkpoint(lambda x: F.relu(self.turn(x)), x, use_reentrant=True)
            return self.head(x)

    model, _ = in_training(make_model=Tied)
    with pytest.raises(FreedGradientError, match=r"gradient of 'turn\.(weight|bias)' is gone"):
        backward(model)


# ---- what the plain loop would have done otherwise --------------------------------------------


def test_a_step_twice():
    model, optimizer = in_training()
    backward(model)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"step\(\) was called again .* 'conv.weight'"):
        optimizer.step()


@pytest.mark.parametrize("loaded", [False, True])
def test_no_step(loaded):
    """The plain loop drops a gradient that no step() has used."""
    model, optimizer = in_training()
    states = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    backward(model)
    optimizer.zero_grad()
    if loaded:  # the way out
        model.load_state_dict(states[0])
        optimizer.load_state_dict(states[1])
        plain(model, optimizer, X)
        return
    with pytest.raises(RuntimeError, match=r"'head.bias' got a gradient again.*load_state_dict"):
        backward(model)
    with pytest.raises(RuntimeError, match=r"'head.bias' was cleared or set.*load_state_dict"):
        optimizer.step()


def set_rate(model, optimizer):
    optimizer.param_groups[0]["lr"] = 0.2


def write_to_a_weight(model, optimizer):
    with torch.no_grad():
        model.head.weight.mul_(0.9)


def register_a_hook(model, optimizer):
    optimizer.register_step_pre_hook(lambda *_: None)


CHANGES = {
    r"param_groups\[0\]\['lr'\] was changed between backward": set_rate,
    "'head.weight' was written to between backward": write_to_a_weight,
    "'head.weight' was cleared or set between": lambda m, _: setattr(m.head.weight, "grad", None),
    "step pre-hook was registered after backward": register_a_hook,
    "was called again": lambda _, o: o.load_state_dict(o.state_dict()),
}


@pytest.mark.parametrize("message", CHANGES)
def test_changed_between_backward_and_step(message):
    model, optimizer = in_training()
    backward(model)
    CHANGES[message](model, optimizer)
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()


@pytest.mark.parametrize("change", [set_rate, write_to_a_weight])
def test_changed_by_a_step_pre_hook(change):
    model, optimizer = in_training()
    optimizer.register_step_pre_hook(lambda *_: change(model, optimizer))
    backward(model)
    with pytest.raises(RuntimeError, match="between backward"):
        optimizer.step()


def test_a_rate_that_is_a_tensor_is_compared_by_value():
    rate = torch.tensor(0.1)
    model, optimizer = in_training(lambda m: optim.Adam(m.parameters(), lr=rate))
    backward(model)
    rate.fill_(0.1)
    optimizer.step()
    optimizer.zero_grad()
    backward(model)
    rate.fill_(0.2)
    with pytest.raises(RuntimeError, match=r"\['lr'\] was changed"):
        optimizer.step()


def test_a_step_under_autocast():
    model, optimizer = in_training()
    backward(model)
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match=r"step.* under autocast"):
        optimizer.step()


def test_a_step_that_raised_is_over():
    model, optimizer = in_training(lambda m: optim.Adam(m.named_parameters()))
    backward(model)
    model.unused.weight.grad = torch.ones(2, 2).to_sparse()
    with pytest.raises(RuntimeError, match="Adam does not support sparse gradients"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="was called again"):
        optimizer.step()
    plain(model, optimizer, X)


def test_a_step_that_raised_and_zero_grad():
    model, optimizer = in_training(lambda m: optim.Adam(m.named_parameters()))
    backward(model)
    model.unused.weight.grad = torch.ones(2, 2).to_sparse()
    with pytest.raises(RuntimeError, match="Adam does not support sparse gradients"):
        optimizer.step()
    optimizer.zero_grad()
    plain(model, optimizer, X)


# ---- errors inside of backward ----------------------------------------------------------------


def test_an_update_that_raises():
    class Mixed(Sparse):
        def __init__(self):
            super().__init__()
            self.b.sparse = False

    model, optimizer = in_training(
        lambda m: optim.SparseAdam(list(m.named_parameters())), make_model=Mixed
    )
    states = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    with pytest.raises(RuntimeError, match="does not support dense gradients") as raised:
        backward(model)
    (note,) = raised.value.__notes__
    assert "while updating 'b.weight'" in note
    assert "of 2 parameters are updated already" in note
    model.b.sparse = True
    model.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    plain(model, optimizer, X)


def test_a_backward_that_raises_in_the_midst():
    model, optimizer = in_training()
    states = copy.deepcopy([model.state_dict(), optimizer.state_dict()])

    def fail(gradient):
        raise ZeroDivisionError

    x = X.clone().requires_grad_()
    x.register_hook(fail)
    with pytest.raises(ZeroDivisionError):
        model(x).sum().backward()
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="got a gradient again"):
        backward(model)
    model.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    plain(model, optimizer, X)


# ---- what is refused at once ------------------------------------------------------------------


class Own(optim.Adam):
    """A class of the user's."""


class CountsInGroup(optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
        return super().step(closure)


class CountsItself(optim.SGD):
    count = 0

    def step(self, closure=None):
        self.count += 1
        return super().step(closure)


def refused(make, error, match, make_model=Net, **how):
    model = make_model()
    optimizer = make(model)
    with pytest.raises(error, match=match):
        fxpass.optim.in_backward(optimizer, **how)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    assert not optimizer._optimizer_step_pre_hooks


def test_no_optimizer():
    with pytest.raises(TypeError, match=r"expected optimizer to be a torch.optim.Optimizer, got N"):
        fxpass.optim.in_backward(Net())


@pytest.mark.parametrize("vouched", [False, True])
def test_lbfgs(vouched):
    def make(model):
        return optim.LBFGS(model.parameters())

    refused(make, TypeError, "LBFGS computes one direction", per_parameter=vouched)


def test_an_unknown_class():
    def make(model):
        return Own(model.parameters())

    refused(make, TypeError, r"\.Own is not known .* per_parameter=True.* Known are SGD, Adam")


def test_an_unknown_class_that_the_user_vouches_for(monkeypatch):
    plainly = fxpass.optim.in_backward
    monkeypatch.setattr(fxpass.optim, "in_backward", lambda o: plainly(o, per_parameter=True))
    assert_equal(Net, lambda model: Own(model.parameters(), lr=0.1))


@pytest.mark.parametrize(
    ("kind", "what"),
    [(CountsInGroup, r"param_groups\[\.\.\.\]\['count'\]"), (CountsItself, "count")],
)
def test_the_user_is_wrong(kind, what):
    model, _ = in_training(lambda m: kind(m.parameters(), lr=0.1), per_parameter=True)
    with pytest.raises(TypeError, match=f"{kind.__name__} writes to {what}, which all parameters"):
        backward(model)


@pytest.mark.parametrize("option", ["differentiable", "capturable"])
def test_options(option):
    def make(model):
        return optim.Adam(model.parameters(), **{option: True})

    refused(make, TypeError, rf"param_groups\[0\] of Adam has {option}=True: set it to False")


def test_an_option_that_is_set_later():
    model, optimizer = in_training()
    optimizer.param_groups[0]["differentiable"] = True
    before = weights(model)
    with pytest.raises(TypeError, match="has differentiable=True"):
        backward(model)
    assert same(model, before)


def test_parameters_elsewhere():
    def make(model):
        return optim.SGD(model.to("meta").named_parameters())

    refused(make, TypeError, "expected parameters on the CPU.*'conv.weight' on meta")


def test_no_leaf():
    def make(model):
        twice = model.head.weight * 2
        twice.retain_grad()
        return optim.SGD([twice])

    refused(make, TypeError, r"expected leaves .* of Tensor, leaf: False")


def test_lazy_parameters():
    refused(
        lambda m: optim.SGD(m.parameters()),
        TypeError,
        "UninitializedParameter",
        make_model=lambda: nn.LazyLinear(3),
    )


def test_parameters_that_share_memory():
    def make_model():
        model = Net()
        model.frozen.weight = nn.Parameter(model.turn.weight.data.t()[2:])
        return model

    def make(model):
        return optim.SGD(model.named_parameters())

    refused(make, ValueError, "'turn.weight' and 'frozen.weight' share memory", make_model)


def test_parameters_in_one_buffer():
    """Views have one version: the update of one would count as a write to the other."""

    def make_model():
        model, buffer = Net(), torch.randn(12)
        model.turn.bias, model.frozen.bias = nn.Parameter(buffer[:6]), nn.Parameter(buffer[6:])
        return model

    def make(model):
        return optim.SGD(model.named_parameters())

    refused(make, ValueError, "'turn.bias' and 'frozen.bias' share memory", make_model)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_listed_twice():
    """step() updates it twice."""

    def make(model):
        return optim.SGD([model.head.weight, model.head.weight])

    refused(make, ValueError, r"\[0\] of shape .* and .*\[1\] of shape .* share memory: list one")


def test_adafactor_takes_its_epsilon_from_the_first_dtype():
    def make_model():
        model = Net()
        model.head.double()
        return model

    refused(lambda m: optim.Adafactor(m.parameters()), TypeError, "mixes dtypes", make_model)


def test_foreach_and_a_sparse_gradient():
    model, _ = in_training(
        lambda m: optim.Adagrad(m.named_parameters(), foreach=True), make_model=Sparse
    )
    with pytest.raises(TypeError, match="sparse gradient, which with foreach=True"):
        backward(model)


def test_a_sparse_gradient_cannot_be_set_to_zero():
    model, optimizer = in_training(lambda m: optim.SGD(m.parameters()), make_model=Sparse)
    backward(model)
    optimizer.step()
    with pytest.raises(FreedGradientError):
        optimizer.zero_grad(set_to_none=False)


@pytest.mark.parametrize("again", ["the same", "another"])
def test_twice(again):
    model, optimizer = in_training()
    second = optimizer if again == "the same" else optim.Adam(model.named_parameters())
    with pytest.raises(ValueError, match=r"'conv.weight' is updated inside backward already"):
        fxpass.optim.in_backward(second)
    plain(model, optimizer, X)  # the first goes on


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    store = distributed.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    time.sleep(0.2)  # see _distributed.py
    distributed.destroy_process_group()


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_data_parallel(one_process, views, compiled):
    """Updated with this process's own gradient, before it is summed: an error at the first one."""
    model, _ = in_training()
    model.unused.requires_grad_(False)
    module = fxpass.compile(model) if compiled else model
    parallel = DistributedDataParallel(module, gradient_as_bucket_view=views)
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        backward(parallel)


def test_sharded_parameters(one_process):
    def make_model():
        return fully_shard(Net(), mesh=init_device_mesh("cpu", (1,)))

    refused(lambda m: optim.SGD(m.named_parameters()), TypeError, "sharded", make_model)
