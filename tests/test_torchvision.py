"""Torchvision's models, three training steps each: compiled, they equal eager to the last bit.

The quick ones, some of every family; FXPASS_HYPOTHESIS=deep takes all of them (at most 8 GiB).
`python -m bench.coverage` checks the same, each model in a process of its own.
"""

import dataclasses
import gc
import itertools
import os

import pytest
import torch
from torch import nn

import fxpass
from bench import coverage
from bench.coverage import KINDS, Subject, check, subjects

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = """
    convnext_tiny densenet121 efficientnet_b0 googlenet mnasnet0_5 mobilenet_v2 mobilenet_v3_small
    regnet_x_400mf regnet_y_400mf resnet18 resnet50 shufflenet_v2_x0_5 squeezenet1_0 squeezenet1_1
    swin_t swin_v2_t
    lraspp_mobilenet_v3_large
    fasterrcnn_mobilenet_v3_large_fpn ssdlite320_mobilenet_v3_large
    r3d_18 swin3d_t
"""
ALL = subjects(KINDS)
DEEP = os.environ.get("FXPASS_HYPOTHESIS") == "deep"
CHOSEN = [subject for subject in ALL if DEEP or subject.name in QUICK.split()]


@pytest.mark.parametrize("subject", CHOSEN, ids=lambda subject: f"{subject.kind}-{subject.name}")
def test_equals_eager(subject):
    result = check(subject)
    gc.collect()
    assert result.ok, "\n".join([result.verdict, *result.details])
    assert result.finite, result.losses
    assert not result.warnings  # every part of it is traced


def test_all_are_there():
    count = {kind: sum(subject.kind == kind for subject in ALL) for kind in KINDS}
    assert count == {"classification": 80, "segmentation": 6, "detection": 12, "video": 9}
    assert {subject.name for subject in ALL}.issuperset(QUICK.split())


# ---- the sizes ---------------------------------------------------------------------------------


def is_legal(subject):
    """Whether the model takes the image in training; on the meta device, which computes nothing."""
    with torch.device("meta"):
        model, images = subject.make(), torch.empty(subject.shape)
    try:
        model(images)
    except (RuntimeError, AssertionError):
        return False
    return True


SIZES = """
    alexnet convnext_tiny densenet121 googlenet inception_v3 maxvit_t squeezenet1_0 squeezenet1_1
    swin_t vgg11 vit_b_32 mvit_v1_b s3d ssd300_vgg16 resnet18
"""


@pytest.mark.parametrize("name", SIZES.split())
def test_no_smaller_image_is_legal(name):
    kind = next(subject.kind for subject in ALL if subject.name == name)
    smallest = Subject.of(kind, name, 1)
    assert is_legal(smallest)
    assert not is_legal(dataclasses.replace(smallest, image=smallest.image - 1))


# ---- the comparison itself ---------------------------------------------------------------------

SMALL = Subject.of("classification", "squeezenet1_1")


def test_a_wrong_bit_is_seen(monkeypatch):
    def wrong(model, example_inputs):
        weight = next(model.parameters())
        weight.register_hook(lambda gradient: torch.nextafter(gradient, gradient + 1))
        return model

    monkeypatch.setattr(fxpass, "compile", wrong)
    result = check(SMALL, steps=1)
    assert result.verdict == "DIFFERS"
    assert result.details[0].startswith("gradient features.0.weight (step 1)")
    assert not result.ok


def test_a_refusal_is_seen(monkeypatch):
    def refuse(model, example_inputs):
        raise TypeError("no")

    monkeypatch.setattr(fxpass, "compile", refuse)
    assert check(SMALL, steps=1).verdict == "refused"


def test_a_model_that_does_not_equal_itself_is_reported(monkeypatch):
    calls = itertools.count()  # nobody puts it back

    class Counting(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)[:, :3]) * next(calls)

    monkeypatch.setattr(coverage.Subject, "make", lambda self: Counting(3, 10))
    result = check(SMALL, steps=1)
    assert result.verdict == "eager is not itself"
    assert not result.ok
