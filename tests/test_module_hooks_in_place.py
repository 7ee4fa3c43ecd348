"""Hooks on a module whose result a ReLU is about to write over."""

import pytest
import torch
from _twins import Twins, X, assert_same, bits, operators, saved_bytes
from torch import nn
from torch.utils.hooks import RemovableHandle


class InPlace(nn.Module):
    """A convolution, an in-place ReLU and a max pool, twice: one op each, unless a hook objects."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(self.relu(self.conv1(x)))
        return self.pool(self.relu(self.conv2(x)))


# What a hook can do with the result of a convolution that a ReLU is about to write over: what it
# returns takes the result's place, what it puts into `kept` joins the loss.
HOLDS = {
    "nothing": lambda kept, out: None,
    "the result": lambda kept, out: kept.append(out),
    "a detached alias": lambda kept, out: kept.append(out.detach()),
    "a view": lambda kept, out: kept.append(out[0]),
    "an array": lambda kept, out: kept.append(out.detach().numpy()),
    "its storage": lambda kept, out: kept.append(out.untyped_storage()),
    "what does not save it": lambda kept, out: kept.append(out * 2),
    "what saves it": lambda kept, out: kept.append(out**2),
    "a gradient hook": lambda kept, out: kept.append(out.register_hook(lambda g: g * 2)),
    "in its place, what is saved": lambda kept, out: out.sigmoid(),
    "in its place, a view": lambda kept, out: out.view_as(out),
    "in its place, a leaf": lambda kept, out: out.detach().requires_grad_(),
    "in its place, a subclass": lambda kept, out: nn.Parameter(out.detach(), False),
    "in its place, a tuple": lambda kept, out: (out,),
}


def tensor_of(held):
    """The elements that a hook has got hold of."""
    if isinstance(held, torch.UntypedStorage):
        return torch.empty(0).set_(held)
    return torch.as_tensor(held)


def run_holding(model, hold):
    """Everything there is to see after a step with a hook that holds what it is given."""
    kept = []
    hook = model.conv2.register_forward_hook(lambda m, args, out: hold(kept, out))
    model.zero_grad()
    try:
        output = model(X)
        seen = [tensor_of(k) for k in kept if not isinstance(k, RemovableHandle)]
        loss = sum((k.sum() for k in seen if k.requires_grad), output.sum())
        loss.backward()
    except (RuntimeError, TypeError) as error:
        return error, None
    finally:
        hook.remove()
    return None, bits([output, seen, {n: p.grad for n, p in model.named_parameters()}])


@pytest.mark.parametrize("hold", HOLDS)
def test_a_hook_that_holds_what_a_relu_writes_over(hold):
    twins = Twins(InPlace)
    twins.step()
    error, expected = run_holding(twins.eager, HOLDS[hold])
    found_error, found = run_holding(twins.compiled, HOLDS[hold])
    assert (found_error is None) == (error is None), (found_error, error)
    if error is None:
        assert_same(expected, found)
    assert "relu_max_pool_after_hooks" in operators(twins.compiled)


def test_a_backward_hook_before_an_in_place_relu_raises_as_in_eager():
    twins = Twins(InPlace)
    twins.each(lambda m: m.conv2.register_full_backward_hook(lambda *_: None))
    for model in (twins.eager, twins.compiled):
        with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
            model(X.clone().requires_grad_())


def test_a_hook_that_holds_nothing_costs_nothing():
    twins = Twins(InPlace)
    before = saved_bytes(twins.compiled, X)
    twins.compiled.conv1.register_forward_hook(lambda m, args, out: None)
    twins.compiled.conv2.register_forward_hook(lambda m, args, out: out.clone())
    assert saved_bytes(twins.compiled, X) == before
