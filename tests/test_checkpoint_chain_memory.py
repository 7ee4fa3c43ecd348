"""checkpoint_chain in torch's allocator: what stays after the forward, and the judge's peak."""

import pytest
import torch
from _steps import every_schedule
from torch import nn

import fxpass
from fxpass.chain import measure
from fxpass.schedule import Chain, Stage, judge, optimal, plain, revolve, smallest_bytes, uniform

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.usefixtures("no_garbage")]

RNG = torch.get_rng_state().nbytes  # a chain keeps one, and a few more come and go
LENGTH = 12


def tanh(x):
    """Keeps its result."""
    return x.tanh()


def wide(x):
    """Keeps three tensors beside its result, and needs one more while it runs."""
    return (x.exp() * x.sin()).cos().sigmoid()


def first_state(elements=50_000):
    return torch.linspace(-1, 1, elements, requires_grad=True)


def live_and_peak(steps, x, **arguments):
    """Bytes above those of the first state: after the forward, and the most until the end."""
    with fxpass.memory.track() as memory:
        y = fxpass.checkpoint_chain(steps, x, **arguments)
        live = memory.live_bytes
        loss = (y * 1).sum()  # with a gradient of y's size, and without holding y
        del y
        loss.backward()
    x.grad = None
    return live, memory.peak_bytes


@pytest.mark.parametrize("slots", [1, 3, 5, 12])
def test_only_the_kept_states_stay(slots):
    x = first_state()
    live, _ = live_and_peak([tanh] * LENGTH, x, slots=slots)
    # The first state is the caller's. The output is the caller's too, and the last step's tape.
    assert live == (slots - 1) * x.nbytes + x.nbytes + RNG


@pytest.mark.parametrize("segments", [1, 3, 4])
def test_uniform_keeps_the_last_segment(segments):
    x = first_state()
    live, _ = live_and_peak([tanh] * LENGTH, x, schedule="uniform", slots=segments)
    assert live == (segments - 1) * x.nbytes + LENGTH // segments * x.nbytes + RNG


@pytest.mark.parametrize("step", [tanh, wide])
@pytest.mark.parametrize("name", every_schedule(LENGTH))
def test_the_peak_is_the_judges(step, name):
    x = first_state()
    arguments = every_schedule(LENGTH)[name]
    chain = measure([step] * LENGTH, x)
    slots = arguments.get("slots", 4)
    schedule = {
        "uniform": lambda: uniform(chain, slots),
        "revolve": lambda: revolve(chain, slots),
        "optimal": lambda: optimal(chain, judge(chain, revolve(chain, 4)).peak_bytes),
    }.get(arguments["schedule"], lambda: arguments["schedule"])()
    _, peak = live_and_peak([step] * LENGTH, x, schedule=schedule)
    judged = judge(chain, schedule).peak_bytes
    # The judge counts the input of a stage with its tape; the backward of tanh does not read it.
    assert judged - x.nbytes <= peak + x.nbytes <= judged + 4 * RNG


def test_random_steps_keep_the_generators_state_with_each_kept_state():
    x = first_state()
    slots = 5
    live, _ = live_and_peak([nn.Dropout(0.1)] * LENGTH, x, slots=slots)
    mask = x.nbytes  # that of the last step, whose tape is held
    assert live == (slots - 1) * x.nbytes + x.nbytes + mask + slots * RNG


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_optimal_stays_within_its_bytes(share):
    x = first_state()
    steps = [tanh, wide, tanh, wide, wide, lambda x: torch.cat([x, x]).cos(), wide, tanh] * 2
    chain = measure(steps, x)
    most, least = judge(chain, plain(chain)).peak_bytes, smallest_bytes(chain)
    budget = int(least + share * (most - least))
    _, peak = live_and_peak(steps, x, schedule=optimal(chain, budget))
    assert peak + x.nbytes <= budget + 4 * RNG
    assert peak + x.nbytes >= 0.8 * budget


def test_optimal_by_name_measures_and_stays_within_its_bytes():
    x = first_state()
    steps = [tanh, wide] * 5
    budget = 2 * smallest_bytes(measure(steps, x))
    with fxpass.memory.track() as memory:
        fxpass.checkpoint_chain(steps, x, schedule="optimal", slots=budget).sum().backward()
    assert 0 < memory.peak_bytes + x.nbytes <= budget + 4 * RNG


def test_a_measured_chain():
    x = first_state(1000)
    size = x.nbytes
    before = torch.get_rng_state()
    norm = nn.BatchNorm1d(1000)
    chain = measure([tanh, wide, lambda x: x + torch.randn(1000), lambda x: x[:500]], x)
    assert isinstance(chain, Chain)
    assert torch.equal(torch.get_rng_state(), before)
    assert x.grad is None
    sizes = [(stage.input_bytes, stage.tape_bytes) for stage in chain.stages]
    # wide keeps exp, sin, cos' input and its result; the last one is a view of its input.
    assert sizes == [(size, size), (size, 4 * size), (size, size), (size, 0)]
    assert chain.output_bytes == size
    assert all(s.forward_seconds > 0 and s.backward_seconds > 0 for s in chain.stages)
    assert chain.stages[0].backward_extra < 2 * size
    # What a step saves is held until it returns, also where nothing of it stays.
    assert 3 * size <= chain.stages[1].forward_extra <= 5 * size
    measure([norm] * 3, torch.randn(4, 1000))
    assert norm.num_batches_tracked == 0
    assert norm.weight.grad is None
    assert isinstance(chain.stages[0], Stage)
