"""What autograd promises, of a compiled module: backwards in any order, twice, partly, or never."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from _threads import torch_threads
from _twins import Net, Twins, X, assert_same, bits, is_compiled, saved_bytes
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxpass


class Plain(nn.Module):
    """No batch norm, no dropout: a call changes nothing but gradients."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.head(x.flatten(1))


@torch_threads(1)
def both(use, make=Plain, **kwargs):
    """What `use(model)` returns and the gradients it leaves, of eager and compiled; the same."""
    twins = Twins(make, **kwargs)
    seen = []
    for model in (twins.eager, twins.compiled):
        torch.manual_seed(1)
        result = use(model)
        seen.append(bits([result, {n: p.grad for n, p in model.named_parameters()}]))
    assert_same(*seen)
    return twins


def test_several_forwards_before_their_backwards():
    def use(model):
        losses = [model(X * k).sum() for k in (1, -2, 3)]
        for k in (1, 0, 2):
            losses[k].backward()
        return losses

    both(use)
    both(use, Net)


def test_a_second_backward_with_retain_graph():
    def use(model):
        x = X.clone().requires_grad_()
        loss = model(x).sum()
        loss.backward(retain_graph=True)
        first = x.grad.clone()
        loss.backward(retain_graph=True)
        loss.backward()
        return first, x.grad

    both(use)


def test_a_second_backward_without_retain_graph_raises_as_eager():
    def use(model):
        loss = model(X).sum()
        loss.backward()
        with pytest.raises(
            RuntimeError, match="Trying to backward through the graph a second time"
        ):
            loss.backward()

    both(use)


def test_gradients_accumulate():
    def use(model):
        for k in range(4):
            (model(X + k).sum() / 4).backward()

    both(use)
    both(use, Net)


class TwoHeads(Plain):
    def forward(self, x):
        x = F.relu(self.conv1(x))
        y = F.relu(self.conv2(x))
        return F.avg_pool2d(y, 2), self.head(F.max_pool2d(y, 2).flatten(1)), x.mean()


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_outputs_that_nobody_uses(used):
    def use(model):
        outputs = model(X)
        sum(outputs[i].sum() for i in used).backward()

    both(use, TwoHeads)


@pytest.mark.parametrize("wanted", [["conv1.weight"], ["conv2.bias"], ["head.weight", "x"], ["x"]])
def test_gradients_of_some_inputs_only(wanted):
    def use(model):
        x = X.clone().requires_grad_()
        tensors = {**dict(model.named_parameters()), "x": x}
        loss = model(x).sum()
        first = torch.autograd.grad(loss, [tensors[n] for n in wanted], retain_graph=True)
        return first, torch.autograd.grad(loss, list(tensors.values()))

    both(use)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_unmodified_model_runs(context, monkeypatch):
    compiled = fxpass.compile(Plain())
    monkeypatch.setattr(type(compiled._fxpass_unit), "run", None)
    with context():
        result = compiled(X)
        assert_same(bits([result]), bits([compiled.original(X)]))
    assert not result.requires_grad


def test_a_frozen_model_keeps_nothing():
    compiled = fxpass.compile(Plain()).requires_grad_(False)
    result = compiled(X)
    assert not result.requires_grad
    assert saved_bytes(compiled, X) == result.numel() * 4


def test_double_backward_names_the_op_and_the_way_out():
    compiled = fxpass.compile(Plain())
    loss = compiled(X).square().sum()
    with pytest.raises(
        RuntimeError, match=r"fxpass::\w+: double backward.*with compiled\.eager\(\)"
    ):
        torch.autograd.grad(loss, list(compiled.parameters()), create_graph=True)


def test_eager_allows_double_backward():
    def use(model):
        context = model.eager() if hasattr(model, "eager") else contextlib.nullcontext()
        x = X.clone().requires_grad_()
        with context:
            loss = model(x).square().sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        sum(g.square().sum() for g in gradients).backward()
        return x.grad

    twins = both(use)
    twins.step()


def test_eager_concerns_this_module_only_and_ends_with_its_block():
    first, second = fxpass.compile(Plain()), fxpass.compile(Plain())
    with first.eager(), first.eager():
        assert not is_compiled(first(X))
        assert is_compiled(second(X))
    assert is_compiled(first(X))
    with pytest.raises(KeyError), first.eager():
        raise KeyError
    assert is_compiled(first(X))


def changed(model, name, change):
    loss = model(X).sum()
    with torch.no_grad():
        change(model.get_parameter(name))
    return loss


@pytest.mark.parametrize("name", ["conv2.weight", "head.weight"])
def test_a_weight_changed_between_forward_and_backward_raises_as_in_eager(name):
    def use(model):
        loss = changed(model, name, lambda p: p.mul_(2))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        model.zero_grad()

    both(use)


@pytest.mark.parametrize("name", ["conv1.bias", "conv2.bias", "head.bias"])
def test_what_eager_does_not_save_may_change(name):
    both(lambda model: changed(model, name, lambda p: p.mul_(2)).backward())


def test_a_batch_changed_between_forward_and_backward_raises_as_in_eager():
    def use(model):
        x = X.clone()
        loss = model(x).sum()
        x.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        model.zero_grad()

    both(use)


@pytest.mark.parametrize("reentrant", [True, False])
def test_inside_a_checkpoint(reentrant):
    def use(model):
        x = X.clone().requires_grad_()
        y = checkpoint(model, x, use_reentrant=reentrant)
        checkpoint(model, x + 1, use_reentrant=reentrant).sum().backward()
        y.sum().backward()
        return x.grad

    both(use)


def test_under_saved_tensors_hooks():
    def use(model):
        packed = []

        def pack(tensor):
            packed.append(tensor.numel() * tensor.element_size())
            return tensor.clone()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(X).sum()
        loss.backward()
        sizes.append(sum(packed))

    sizes = []
    both(use)
    assert 0 < sizes[1] < sizes[0]  # the hooks see the packed form


def test_under_save_on_cpu():
    def use(model):
        with torch.autograd.graph.save_on_cpu():
            loss = model(X).sum()
        loss.backward()

    both(use)


def test_with_anomaly_detection():
    def use(model):
        with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
            model(X).sum().backward()

    both(use)


def test_nothing_is_left_after_backward_while_the_loss_is_held():
    compiled = fxpass.compile(Plain())
    compiled(X).sum().backward()
    with fxpass.memory.track() as memory:
        loss = compiled(X).sum()
        held = memory.live_bytes
        loss.backward()
        assert memory.live_bytes <= 64 < held


def test_gradient_hooks_on_parameters_and_the_input():
    def use(model):
        seen = []
        x = X.clone().requires_grad_()
        x.register_hook(seen.append)
        model.conv1.weight.register_hook(lambda grad: grad * 2)
        model.conv2.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.sum()))
        model(x).sum().backward()
        return seen

    both(use)
