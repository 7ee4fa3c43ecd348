"""Networks of known blocks: what is run again, eager's bits, and the share of bytes kept."""

from collections import Counter

import pytest
import torch
from _bits import values
from _blocks import NETWORKS, image, made
from _exact import assert_exact, assert_saves_no_more
from _twins import all_operators, makes_handles

# What is run again, by network, and the share of eager's saved bytes that is kept at most. A ReLU
# in front of a sum is `rerun_activation`.
AGAIN = {
    "residual": ("rerun_activation rerun_add", 0.53),
    "residual in place": ("rerun_activation rerun_add", 0.53),
    "residual with downsampling": ("rerun_activation rerun_add", 0.57),
    "in place with downsampling": ("rerun_activation rerun_add", 0.57),
    "residual with a pooled shortcut": ("rerun_avg_pool2d", 0.54),
    "residual hardswish": ("rerun_activation 2 rerun_add", 0.37),
    "pre-activation": ("", 0.43),
    "pre-activation in place": ("", 0.43),
    "pre-activation silu": ("", 0.30),
    "dense": ("8 rerun_cat", 0.18),
    "dense with dropout": ("3 pack_noise 4 rerun_cat", 0.16),
    "squeeze-excite": ("rerun_add 2 rerun_mul", 0.34),
    "squeeze-excite hard": ("rerun_activation rerun_mul", 0.35),
    "squeeze-excite, scale last": ("rerun_mul", 0.35),
    "squeeze-excite, dropped": ("rerun_add 3 rerun_mul", 0.34),
    "shuffle": ("rerun_cat rerun_contiguous", 0.42),
    "shuffle in place": ("rerun_cat rerun_contiguous", 0.42),
    "stochastic depth": ("rerun_add rerun_mul", 0.40),
    "stochastic depth of a batch": ("rerun_add rerun_mul", 0.40),
    "inception": ("rerun_cat 2 rerun_max_pool2d", 0.24),
}


def again(compiled):
    """What a compiled model runs again or packs, as AGAIN writes it."""
    count = Counter(n for n in all_operators(compiled) if makes_handles(n) and n != "bind")
    return " ".join(name if n == 1 else f"{n} {name}" for name, n in sorted(count.items()))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_known_blocks(name):
    model, x = made(name), image()
    compiled = assert_exact(model, x)
    expected, share = AGAIN[name]
    assert again(compiled) == expected
    assert assert_saves_no_more(model, compiled, x) <= share
    x = image(layout="channels_last")
    compiled = assert_exact(model.to(memory_format=torch.channels_last), x, steps=2)
    assert_saves_no_more(model, compiled, x)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_in_other_dtypes(name, dtype):
    model, x = made(name).to(dtype), image(dtype)
    compiled = assert_exact(model, x, steps=2)
    # A mask on top of what ATen keeps, where its own batch norm runs.
    assert_saves_no_more(model, compiled, x, slack=0 if dtype == torch.float64 else x.nbytes)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_evaluation_with_gradients(name):
    model, x = made(name).eval(), image()
    assert_saves_no_more(model, assert_exact(model, x), x, slack=2048)


@pytest.mark.parametrize("name", ["residual in place", "dense", "squeeze-excite hard", "shuffle"])
def test_on_two_threads(name):
    model, x = made(name), values((4, 3, 40, 40)).requires_grad_()
    assert_exact(model, x, steps=1, on_threads=2)
