"""checkpoint_chain: the plain loop's results to the last bit."""

import functools

import pytest
import torch
from _bits import check, examples
from _exact import assert_exact, weighted
from _steps import KINDS, WIDTH, Cell, Counting, Dropped, Normed, batch, every_schedule, twins
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fxpass
from fxpass.schedule import Chain, judge, plain, revolve, uniform

pytestmark = pytest.mark.usefixtures("one_thread")


def make(kinds, seed=0):
    torch.manual_seed(seed)
    return [kind() for kind in kinds]


@pytest.mark.parametrize("name", every_schedule(7))
def test_every_schedule(name):
    arguments = every_schedule(7)[name]
    steps = make(KINDS)
    plain, chained = twins(steps, **arguments)
    assert_exact(plain, batch(), compiled=chained)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 3])
def test_one_step_shared_by_all(kind, slots):
    (step,) = make([kind])
    plain, chained = twins([step] * 9, schedule="revolve", slots=slots)
    assert_exact(plain, batch(), compiled=chained)


@examples(60)
@given(st.data())
def test_any_chain(data):
    distinct = make(data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4)))
    steps = data.draw(st.lists(st.sampled_from(distinct), min_size=1, max_size=12))
    schedules = every_schedule(len(steps))
    arguments = schedules[data.draw(st.sampled_from(list(schedules)))]
    frozen = data.draw(st.sets(st.sampled_from(distinct)))
    evaluated = data.draw(st.sets(st.sampled_from(distinct)))
    for module in frozen:
        module.requires_grad_(False)
    for module in evaluated:
        module.eval()
    plain, chained = twins(steps, **arguments)
    x = batch(data.draw(st.booleans()))
    assert_exact(plain, x, compiled=chained, steps=2, note=(arguments, frozen, evaluated))


class Wave(nn.Module):
    """A tuple of tensors, one of which is handed on as it is, and a number."""

    def __init__(self):
        super().__init__()
        self.speed = nn.Parameter(torch.full((WIDTH,), 0.3))

    def forward(self, state):
        before, now, time = state
        bend = now.roll(1, -1) + now.roll(-1, -1) - 2 * now
        return now, 2 * now - before + self.speed**2 * bend, time + 1


class Named(nn.Module):
    """A dict with a list, an integer tensor and a None in it; sizes grow."""

    def __init__(self):
        super().__init__()
        self.cell = Cell()

    def forward(self, state):
        seen, count = state["seen"], state["count"]
        x = self.cell(seen[-1])
        return {"seen": [*seen, x], "count": count + 1, "nothing": None}


@pytest.mark.parametrize("name", every_schedule(6))
def test_states_are_trees(name):
    arguments = every_schedule(6)[name]
    wave, named = make([Wave, Named])
    plain, chained = twins([wave] * 6, **arguments)
    x = batch()
    y = (batch().detach() + 1).requires_grad_()
    assert_exact(plain, x, y, torch.tensor(0), compiled=chained)
    plain, chained = twins([named] * 6, **arguments)
    state = {"seen": [x], "count": torch.tensor(0), "nothing": None}
    assert_exact(plain, state, compiled=chained)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    steps = make([Cell, Dropped, Cell, Normed])
    weight = steps[0].linear.weight  # cast once in a region, and its gradients summed in half

    def run(loop, x):
        with torch.autocast("cpu", dtype=dtype):
            return torch.tanh(x @ weight) + loop([*steps, *steps], x)

    def plain(steps, x):
        for step in steps:
            x = step(x)
        return x

    results = []
    for loop in (plain, functools.partial(fxpass.checkpoint_chain, slots=2)):
        torch.manual_seed(3)
        for step in steps:
            step.zero_grad()
        x = batch()
        weighted(run(loop, x)).backward()
        results.append([x.grad, *(p.grad for s in steps for p in s.parameters())])
    for expected, found in zip(*results, strict=True):
        assert torch.equal(expected, found)


def test_gradients_that_are_there_are_added_to():
    steps = make([Cell, Dropped]) * 3

    def run(loop):
        def op(x, w):
            steps[0].zero_grad()
            steps[0].linear.weight.grad = w.detach().clone()
            torch.manual_seed(1)
            y = loop(x)
            (y * steps[0].linear.weight.sum()).sum().backward()
            return y.detach(), steps[0].linear.weight.grad

        return op

    def plain(x):
        for step in steps:
            x = step(x)
        return x

    chained = functools.partial(fxpass.checkpoint_chain, steps, slots=2)
    check(
        run(plain),
        run(chained),
        [batch().detach(), torch.ones(WIDTH, WIDTH) / 3],
        needs=[False] * 2,
    )


def test_random_state_and_members_are_left_alone_by_backward():
    steps = make([Dropped, Normed, Counting]) * 2
    y = fxpass.checkpoint_chain(steps, batch(), slots=2)
    state, moving = torch.get_rng_state(), steps[2].moving
    values = [b.clone() for s in steps[:3] for b in s.buffers()]
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert steps[2].calls == 2
    assert steps[2].moving is moving
    for before, now in zip(values, (b for s in steps[:3] for b in s.buffers()), strict=True):
        assert torch.equal(before, now)


def test_the_modules_of_functions_are_found():
    (normed,) = make([Normed])

    class Holder:
        def __init__(self):
            self.parts = {"norm": [normed]}

        def step(self, x):
            return self.parts["norm"][0](x)

    ways = [
        lambda x: normed(x),
        functools.partial(lambda norm, x: norm(x), normed),
        Holder().step,
        normed.forward,
        lambda x, norm=normed: norm(x),
    ]
    for step in ways:
        normed.norm.reset_running_stats()
        fxpass.checkpoint_chain([step] * 4, batch(), slots=1).sum().backward()
        assert normed.norm.num_batches_tracked == 4


def test_modes_changed_before_backward():
    # The steps run again in the mode in which they ran.
    steps = make([Dropped, Normed, nn.RReLU]) * 2
    module = nn.ModuleList(steps)
    results = []
    for change in (lambda: None, module.eval):
        module.train()
        torch.manual_seed(0)
        x = batch()
        y = fxpass.checkpoint_chain(steps, x, slots=1)
        change()
        y.sum().backward()
        results.append(x.grad)
    assert torch.equal(*results)
    assert not any(step.training for step in steps)


def test_where_no_gradient_is_wanted():
    steps = make([Cell, Normed])
    with torch.no_grad():
        y = fxpass.checkpoint_chain(steps, batch())
    assert torch.equal(y, steps[1](steps[0](batch())))
    assert not y.requires_grad
    assert steps[1].norm.num_batches_tracked == 2
    with torch.inference_mode():
        assert fxpass.checkpoint_chain(steps, batch()).is_inference()
    assert fxpass.checkpoint_chain([], y) is y
    assert fxpass.checkpoint_chain([lambda x: x], y) is y


def test_a_compiled_module_is_a_step():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
    compiled = fxpass.compile(net)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    plain, chained = twins([net] * 5)[0], twins([compiled] * 5, slots=2)[1]
    for model in (plain, chained):
        model.outside = net[0].weight
    y, z = plain(x), None
    y.sum().backward()
    expected = [x.grad, *(p.grad for p in net.parameters())]
    x.grad = None
    net.zero_grad()
    z = chained(x)
    z.sum().backward()
    for a, b in zip(expected, [x.grad, *(p.grad for p in net.parameters())], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(y, z)


class Nested(nn.Module):
    """A step that is a chain itself."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList(make([Cell, Dropped, Normed, Cell]))

    def forward(self, x):
        return fxpass.checkpoint_chain(list(self.cells), x, slots=1)


class Checkpointed(Nested):
    """A step with torch's own checkpoint in it."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.use_reentrant = use_reentrant

    def forward(self, x):
        first, *others = self.cells
        x = checkpoint(first, x, use_reentrant=self.use_reentrant)
        return others[0](x)


class Twice(torch.autograd.Function):
    """Reads what it has saved two times, and saves nothing that it was given."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.cos(), x > 0)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0] * (1 + ctx.saved_tensors[1].float())


class WithTwice(Cell):
    def forward(self, x):
        return Twice.apply(super().forward(x))


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize(
    "kind",
    [
        Nested,
        lambda: Checkpointed(False),
        lambda: Checkpointed(True),
        WithTwice,
    ],
    ids=["nested", "checkpoint", "reentrant", "function"],
)
def test_steps_that_save_in_their_own_way(kind, slots):
    torch.manual_seed(0)
    plain, chained = twins([kind(), kind()] * 3, slots=slots)
    assert_exact(plain, batch(), compiled=chained)


def runs_of(loop, length):
    """How often each step is run."""
    counts = [0] * length

    def step(i, x):
        counts[i] += 1
        return x.tanh()

    loop([functools.partial(step, i) for i in range(length)], batch()).sum().backward()
    return counts


@pytest.mark.parametrize("length", [1, 2, 7, 20])
def test_steps_run_as_often_as_the_schedule_says(length):
    chain = Chain.equal(length)
    for schedule in (plain(chain), *(revolve(chain, n) for n in (1, 2, 3, 5, length))):
        loop = functools.partial(fxpass.checkpoint_chain, schedule=schedule)
        assert sum(runs_of(loop, length)) == judge(chain, schedule).forward_steps


@pytest.mark.parametrize("segments", [1, 2, 3, 7])
def test_uniform_runs_what_checkpoint_sequential_runs(segments):
    def torchs(steps, x):
        return checkpoint_sequential(steps, segments, x, use_reentrant=False)

    found = runs_of(
        functools.partial(fxpass.checkpoint_chain, schedule="uniform", slots=segments), 7
    )
    assert found == runs_of(torchs, 7)
    assert sum(found) == judge(Chain.equal(7), uniform(Chain.equal(7), segments)).forward_steps
