"""What a step takes, told from shapes, against the same told from measurements."""

import pytest
import torch
from test_judge import made, torchvision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fxpass._preserved import preserved
from fxpass.budget.judge import judge
from fxpass.budget.shapes import ShapePlanner, forward_only
from fxpass.budget.survey import Survey, survey
from fxpass.errors import FxpassError


class VGG(nn.Module):
    """Convolutions with biases, max pools, dropout; no norm."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)),
        )
        self.pool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(64 * 49, 128), nn.ReLU(True), nn.Dropout(), nn.Linear(128, 10)
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


MODELS = {
    "resnet18": lambda: torchvision("resnet18"),
    "resnet50": lambda: torchvision("resnet50"),
    "mobilenet_v2": lambda: torchvision("mobilenet_v2"),
    "vgg": VGG,
}


def planner(make, shape, memory_format=torch.contiguous_format, **options):
    with FakeTensorMode():
        model, images = make(), torch.empty(shape, memory_format=memory_format)
    return ShapePlanner(model, (images,), **options)


@pytest.mark.parametrize("plan", ["eager", "free", "everything again"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_judge_says_the_same(name, channels_last, plan):
    form = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    images = torch.randn(2, 3, 96, 96).to(memory_format=form)
    model = MODELS[name]().to(memory_format=form)
    graph, _ = made(model, images, plan)
    measured = Survey()
    with preserved(model, (images,)):
        survey(model, graph, (images,), measured)
    told = planner(MODELS[name], images.shape, form)
    told._measure(graph)
    # How many elements a ReLU zeroes is no matter of shapes.
    told.survey.packed_bytes = measured.packed_bytes
    expected, found = judge(model, graph, measured), judge(model, graph, told.survey)
    assert abs(found.peak_bytes / expected.peak_bytes - 1) <= 0.02
    assert abs(found.saved_bytes - expected.saved_bytes) <= 0.02 * expected.peak_bytes


def test_planning_needs_no_memory():
    found = planner(VGG, (4096, 3, 224, 224))
    assert found.eager.peak_bytes > 2**36
    assert found.free.verdict.peak_bytes < found.eager.peak_bytes


def test_a_budget():
    found = planner(VGG, (8, 3, 64, 64))
    budget = (found.smallest.verdict.peak_bytes + found.free.verdict.peak_bytes) // 2
    assert found.plan(budget).predicted_peak_bytes <= budget
    larger = planner(VGG, (16, 3, 64, 64)).following(found.smallest.plan)
    assert found.smallest.verdict.peak_bytes < larger.verdict.peak_bytes


def test_gradients_freed():
    kept, freed = (planner(VGG, (2, 3, 32, 32), frees_gradients=f) for f in (False, True))
    parameters = sum(p.nbytes for p in VGG().parameters())
    assert freed.eager.saved_bytes == kept.eager.saved_bytes
    # The first linear layer has nearly all of them, and its gradient is there at the peak anyway.
    assert 0 < kept.eager.peak_bytes - freed.eager.peak_bytes < parameters


def test_without_gradients_nothing_is_kept():
    found = planner(VGG, (8, 3, 64, 64))
    verdict = judge(VGG(), found.graph, forward_only(found.survey))
    assert verdict.saved_bytes == 8 * 10 * 4
    assert verdict.peak_bytes < found.eager.saved_bytes
    assert 0 < verdict.seconds < found.eager.seconds


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU()), "gelu"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8).eval()), "eval mode"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding="same")), "same"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout2d()), "Dropout2d"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, stride=4)), "3 x 3 elements"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.LPPool2d(2, 2)), "."),
    ],
)
def test_an_op_that_is_not_known(module, what):
    with pytest.raises(FxpassError, match=what):
        ShapePlanner(module, (torch.randn(2, 3, 8, 8),))
