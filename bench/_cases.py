"""What `bench/zoo.py` measures: the rows by name, and the steps that are measured."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fxpass
from bench import _models
from bench._timing import Ratio, Step, paired_ratio

Loss = Callable[[Any], Tensor]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Case:
    """One row: a model, what it is called with, and the figures it must reach.

    `limits` are the thresholds of the figures (see `_figures.py`); they hold for `batch` and
    `image` as given here, contiguous memory and two threads. That of the time holds in any memory
    format that has none of its own ("time channels_last").
    """

    name: str
    make: Callable[[], nn.Module]
    batch: int = 8
    image: int = 224
    channels: int = 3
    trains: bool = True
    fixed_size: bool = False  # the figure is defined at one size only
    input_grad: bool = False
    classifies: bool = True
    limits: dict[str, float] = field(default_factory=dict)


def _relu_pool() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))


_SAVED = {
    "alexnet": 0.23,
    "vgg16": 0.32,
    "vgg16_bn": 0.45,
    "squeezenet1_1": 0.21,
    "resnet18": 0.50,
    "resnet50": 0.54,
    "wide_resnet50_2": 0.54,
    "resnext50_32x4d": 0.54,
    "densenet121": 0.22,
    "googlenet": 0.30,
    "inception_v3": 0.39,
    "mobilenet_v2": 0.36,
    "mobilenet_v3_large": 0.42,
    "efficientnet_b0": 0.32,
    "efficientnet_v2_s": 0.34,
    "mnasnet1_0": 0.52,
    "shufflenet_v2_x1_0": 0.41,
    "regnet_y_400mf": 0.49,
}
_OF_ALL = {"time": 1.03, "conv": 1.00, "hooked": 1.05}
_LIMITS = {name: _OF_ALL | {"saved": limit} for name, limit in _SAVED.items()}
for _name in ("vgg16", "alexnet"):
    _LIMITS[_name] |= {"time": 1.00, "time channels_last": _OF_ALL["time"]}
_LIMITS["resnet50"]["compile"] = 2.0
ZOO_NAMES = tuple(_SAVED)
LINEAR_GRADIENTS = ("alexnet", "vgg16", "vgg16_bn")
"""The models whose peak is the gradients of their linear layers."""


def bias_only(name: str) -> nn.Module:
    """The named model with all parameters frozen but biases, its statistics too."""
    model = _models.make(name).eval()
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(path.endswith("bias"))
    return model


_OWN_CASES = (
    Case(
        "relu_pool",
        _relu_pool,
        channels=64,
        fixed_size=True,
        input_grad=True,
        classifies=False,
        limits={"time": 0.6},
    ),
    Case(
        "resnet50_no_grad",
        lambda: _models.make("resnet50").eval(),
        batch=1,
        trains=False,
        fixed_size=True,
        limits={"time": 1.02},
    ),
    Case(
        _models.SMALL_RESNET,
        partial(_models.make, _models.SMALL_RESNET),
        batch=16,
        image=32,
        fixed_size=True,
        limits={"time": 1.05},
    ),
    Case("resnet50_bias_only", partial(bias_only, "resnet50"), limits={"saved": 0.02}),
)
OWN_CASES = {case.name: case for case in _OWN_CASES}
DEFAULT_NAMES = (*ZOO_NAMES, *OWN_CASES)
_IMAGES = {"inception_v3": 299}


def case_of(name: str) -> Case:
    """The case of that name: one of ours, or a model of torchvision."""
    if name in OWN_CASES:
        return OWN_CASES[name]
    if name not in _models.names():
        known = ", ".join([*OWN_CASES, *_models.names()])
        raise ValueError(f"expected the name of a model, got {name!r}; known: {known}")
    image = _IMAGES.get(name, 224)
    return Case(name, partial(_models.make, name), image=image, limits=_LIMITS.get(name, {}))


@dataclass(frozen=True)
class Subject:
    """A case made ready: the model, its compiled form, an input and a loss."""

    case: Case
    eager: nn.Module
    compiled: nn.Module
    images: Tensor
    loss: Loss

    @staticmethod
    def of(case: Case, batch: int, image: int, memory_format: str) -> Subject:
        """Makes model and input, in the memory format, and compiles."""
        form = FORMATS[memory_format]
        eager = _models.in_format(case.make(), form)
        images, labels = _models.batch(batch, image, channels=case.channels)
        images = images.to(memory_format=form).requires_grad_(case.input_grad)
        loss: Loss = partial(_models.cross_entropy, labels) if case.classifies else torch.sum
        compiled: Any = fxpass.compile(eager, example_inputs=(images,))
        return Subject(case, eager, compiled, images, loss)

    def step(self, model: nn.Module) -> Step:
        """One training step without the optimizer, or one forward under no_grad."""

        def train() -> None:
            self.forget_gradients()
            self.loss(model(self.images)).backward()

        def infer() -> None:
            with torch.no_grad():
                model(self.images)

        return train if self.case.trains else infer

    def forget_gradients(self) -> None:
        """Sets them to None."""
        for tensor in (*self.eager.parameters(), self.images):
            tensor.grad = None

    def time(self, pairs: int | None, progress: Callable[[int, int], None]) -> Ratio:
        """The compiled model's step against eager's."""
        steps = self.step(self.compiled), self.step(self.eager)
        return paired_ratio(*steps, pairs=pairs, progress=progress)

    def memory(self, model: nn.Module) -> Bytes:
        """Exact bytes of one training step, after one to warm up."""
        self.step(model)()
        self.forget_gradients()
        gc.collect()
        with fxpass.memory.track() as tracked:
            output = model(self.images)
            saved = tracked.live_bytes
            loss = self.loss(output)
            del output
            loss.backward()
            leaves = (*self.eager.parameters(), self.images)
            grads = sum(t.grad.untyped_storage().nbytes() for t in leaves if t.grad is not None)
            left = tracked.live_bytes - grads
        return Bytes(saved, tracked.peak_bytes, left)

    def verify(self, steps: int) -> str:
        """Empty if the compiled model equals eager to the last bit, else what differs."""
        try:
            fxpass.verify(self.compiled, self.images, steps=steps, loss_fn=self.loss)
        except fxpass.MismatchError as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class Bytes:
    """Of one step, above its start: when the forward has returned, at most, and in the end.

    `left` is what is live after backward, gradients aside, while the loss is still referenced.
    """

    saved: int
    peak: int
    left: int
