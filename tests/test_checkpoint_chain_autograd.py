"""checkpoint_chain and autograd: several backwards, parts of one, errors, threads, what is left."""

import gc
import weakref

import pytest
import torch
from _bits import check
from _chain import Stop, flush, stop
from _steps import Cell, Dropped, Forces, batch, every_schedule
from _threads import at_once
from torch import nn

import fxpass

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULES = [
    every_schedule(8)[name] for name in ("uniform", "revolve 1", "revolve 3", "in 8 units")
]


def cells(length=8, kind=Cell):
    torch.manual_seed(0)
    return [kind() for _ in range(length)]


def plain(steps, x, **_):
    for step in steps:
        x = step(x)
    return x


def both(steps, use, **arguments):
    """`use(y, x, steps)` of both ways gives the same tensors."""

    def run(loop):
        def op(x):
            torch.manual_seed(1)
            return tuple(use(loop(steps, x, **arguments), x))

        return op

    check(run(plain), run(fxpass.checkpoint_chain), [batch().detach()])


@pytest.mark.parametrize("arguments", SCHEDULES)
def test_a_second_backward(arguments):
    def use(y, x):
        weights = [step.linear.weight for step in steps]
        first = torch.autograd.grad(y.sum(), [x, *weights], retain_graph=True)
        second = torch.autograd.grad(y.pow(2).sum(), [x, *weights])
        return [*first, *second]

    steps = cells(kind=Dropped)
    both(steps, use, **arguments)


@pytest.mark.parametrize("arguments", SCHEDULES)
def test_double_backward(arguments):
    def use(y, x):
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        weights = [step.linear.weight for step in steps]
        return [first.detach(), *torch.autograd.grad(first.pow(2).sum(), [x, *weights])]

    for kind in (Cell, Dropped, Forces):
        steps = cells(kind=kind)
        both(steps, use, **arguments)


@pytest.mark.parametrize("arguments", SCHEDULES)
def test_parts_of_a_backward(arguments):
    def use(y, x):
        found = []
        for i in (5, 7, 0, 3):  # autograd runs down to that step only
            weight = steps[i].linear.weight
            found += torch.autograd.grad(y.sum(), weight, retain_graph=True)
        return [*found, *torch.autograd.grad(y.sum(), x)]

    steps = cells()
    both(steps, use, **arguments)


@pytest.mark.parametrize("arguments", SCHEDULES)
def test_two_strands_one_after_the_other(arguments):
    # Each backward frees the nodes it has run, and the other strand's stay.
    class Strands(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = Cell(), Cell()

        def forward(self, state):
            left, right = state
            return self.left(left), self.right(right)

    steps = cells(kind=Strands)
    results = []
    for loop in (plain, fxpass.checkpoint_chain):
        x, y = batch(), batch()
        left, right = loop(steps, (x, y), **arguments)
        left.sum().backward()
        right.sum().backward()
        results.append([x.grad, y.grad, *(p.grad for s in steps for p in s.parameters())])
        for step in steps:
            step.zero_grad()
    assert all(map(torch.equal, *results))


def test_without_retain_graph_a_second_backward_is_eagers_error():
    y = fxpass.checkpoint_chain(cells(), batch(), slots=2)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()


def test_a_backward_that_raises_and_one_after_it():
    steps, x = cells(), batch()
    y = fxpass.checkpoint_chain(steps, x, slots=2)
    hook = steps[4].linear.weight.register_hook(stop)
    with pytest.raises(Stop):
        y.sum().backward(retain_graph=True)
    flush()
    hook.remove()
    x.grad = None
    for step in steps:
        step.zero_grad()
    y.sum().backward()
    found = [x.grad, *(p.grad for s in steps for p in s.parameters())]
    for step in steps:
        step.zero_grad()
    x.grad = None
    plain(steps, x).sum().backward()
    expected = [x.grad, *(p.grad for s in steps for p in s.parameters())]
    assert all(map(torch.equal, expected, found))


def test_several_threads_at_once():
    steps, x = cells(12, Dropped), batch()
    y = fxpass.checkpoint_chain(steps, x, slots=3)
    leaves = [x, *(p for s in steps for p in s.parameters())]
    expected = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
    state = torch.get_rng_state()

    def work(_):
        found = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
        assert all(map(torch.equal, expected, found))

    at_once(4, work)
    assert torch.equal(torch.get_rng_state(), state)


def test_several_chains_at_once():
    # They share the generator of random numbers, which each replays.
    chains = []
    for _ in range(3):
        x = batch()
        y = fxpass.checkpoint_chain(cells(16, Dropped), x, slots=2)
        chains.append((x, y, torch.autograd.grad(y.sum(), x, retain_graph=True)[0]))
    state = torch.get_rng_state()

    def work(i):
        x, y, expected = chains[i]
        for _ in range(3):
            assert torch.equal(torch.autograd.grad(y.sum(), x, retain_graph=True)[0], expected)

    at_once(len(chains), work)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_written_to_are_eagers_error():
    for loop in (plain, fxpass.checkpoint_chain):
        steps = cells(kind=lambda: nn.Linear(6, 6))
        y = loop(steps, batch())
        with torch.no_grad():
            steps[3].weight.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_what_a_step_itself_has_written_to_is_eagers_error():
    def step(x):
        y = x.exp()
        y.mul_(0.1)
        return y

    for loop in (plain, fxpass.checkpoint_chain):
        for length in (1, 5):
            y = loop([step] * length, batch())
            with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*expected v"):
                y.sum().backward()


def test_what_backward_does_not_need_may_be_written_to():
    def step(x):
        y = x.detach().requires_grad_().exp()
        y.mul_(0.1)  # only the backward of exp would need it
        return x.sin() + y.detach()

    both([step] * 6, lambda y, x: torch.autograd.grad(y.sum(), x), slots=2)


def test_weights_updated_within_backward():
    # By a hook, as soon as the gradient is there: no earlier step runs it again.
    def update(p):
        p.data.sub_(p.grad)

    results = []
    for loop in (plain, fxpass.checkpoint_chain):
        steps, x = cells(), batch()
        for step in steps:
            for p in step.parameters():
                p.register_post_accumulate_grad_hook(update)
        loop(steps, x).sum().backward()
        results.append([x.grad, *(p.detach() for s in steps for p in s.parameters())])
    assert all(map(torch.equal, *results))


def test_the_first_state_written_to():
    x = batch(False) * 1
    y = fxpass.checkpoint_chain(cells(), x, slots=2)
    x.add_(1)
    with pytest.raises(RuntimeError, match=r"state before step 0, kept.* give the chain a clone"):
        y.sum().backward()


def test_a_step_that_writes_to_its_state():
    with pytest.raises(RuntimeError, match="step 1 writes in place to the state it is given"):
        fxpass.checkpoint_chain([Cell(), lambda x: x.mul_(2)], batch())


class Fickle(Cell):
    """That is not the same when it is run for the second time."""

    def __init__(self, change):
        super().__init__()
        self.runs, self.change = [], change

    def forward(self, x):
        self.runs.append(0)
        return self.change(super().forward(x), len(self.runs) > 1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x, again: x * x if again else x, "saved 6 tensors, then 8"),
        (lambda x, again: x if again else x * x, "saved 8 tensors, then 6"),
        (lambda x, again: x + again, "returned other values"),
        (lambda x, again: x.double() if again else x, "returned other values"),
        (lambda x, again: (x[:3] if again else x[:4]).exp(), "saved .*4, 6.*, then .*3, 6"),
    ],
)
@pytest.mark.parametrize("arguments", SCHEDULES[:3])
def test_a_step_that_does_not_do_the_same_again(change, problem, arguments):
    steps = [*cells(2), Fickle(change), *cells(2)]
    y = fxpass.checkpoint_chain(steps, batch(), **arguments | {"slots": 1})
    if arguments["schedule"] == "uniform":  # of one segment: nothing runs again
        y.sum().backward()
        return
    with pytest.raises(RuntimeError, match=f"step 2 differed when it ran again: it {problem}"):
        y.sum().backward()


def test_a_constant_changed_in_between():
    noise = torch.ones(4, 6)  # which eager does not save
    y = fxpass.checkpoint_chain([*cells(2), lambda x: x + noise, *cells(2)], batch(), slots=1)
    noise.mul_(2)
    with pytest.raises(RuntimeError, match=r"step 2 differed .* nothing that it reads may change"):
        y.sum().backward()


def test_saved_tensors_can_be_looked_at():
    y = fxpass.checkpoint_chain([*cells(4), torch.exp], batch(), slots=1)
    assert torch.equal(y.grad_fn._saved_result, y)
    y.sum().backward()


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("arguments", SCHEDULES)
def test_nothing_is_left(arguments):
    steps = cells(kind=Dropped)

    def backward(y):
        y.sum().backward()

    def twice(y):
        y.sum().backward(retain_graph=True)
        y.sum().backward()

    def part(y):
        torch.autograd.grad(y.sum(), steps[4].linear.weight)

    def stopped(y):
        hook = steps[4].linear.weight.register_hook(stop)
        with pytest.raises(Stop):
            y.sum().backward()
        hook.remove()
        flush()

    for use in (backward, twice, part, stopped, lambda y: None):
        for _ in range(2):  # the first time, torch may make what it makes once
            x = batch()
            with fxpass.memory.track() as memory:
                y = fxpass.checkpoint_chain(steps, x, **arguments)
                use(y)
                del y
                x.grad = None
                for step in steps:
                    step.zero_grad()
                left = memory.live_bytes
        assert left == 0, use


@pytest.mark.usefixtures("no_garbage")
def test_kept_states_are_gone_after_backward_though_the_output_lives():
    x = torch.randn(1000, 6, requires_grad=True)
    steps = cells(30)
    for retain, states in ((False, 0), (True, 1)):
        x.grad = torch.zeros_like(x)
        for step in steps:
            step.zero_grad(set_to_none=False)
        with fxpass.memory.track() as memory:
            first = x * 1
            y = fxpass.checkpoint_chain(steps, first, slots=5)
            del first
            assert memory.live_bytes > 6 * x.nbytes
            y.sum().backward(retain_graph=retain)
            left = memory.live_bytes - y.nbytes
        assert abs(left - states * x.nbytes) < 0.5 * x.nbytes + 20_000
        del y


def test_the_steps_are_let_go_of():
    gc.collect()
    steps = cells()
    alive = weakref.ref(steps[0])
    y = fxpass.checkpoint_chain(steps, batch(), slots=2)
    y.sum().backward()
    del steps, y
    gc.collect()
    assert alive() is None
