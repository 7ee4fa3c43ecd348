"""Training loops in the style of Lightning, of Trainer and Accelerate: nothing in them changes."""

import copy
import functools
import io
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _twins import Net, assert_same, bits, is_compiled
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import fxpass

pytestmark = pytest.mark.usefixtures("one_thread")

Compile = Callable[[nn.Module], Any]


def batches() -> DataLoader:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(12, 3, 8, 8, generator=generator)
    labels = torch.randint(5, (12,), generator=generator)
    return DataLoader(TensorDataset(images, labels), 4, shuffle=True, generator=generator)


# ---- Lightning: the user's module has the steps, and calls the network it holds ------------------


class Classifier(nn.Module):
    """A LightningModule: the network is a part of it, compiled or not."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.logged: dict[str, Any] = {}

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, index):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.logged["loss"] = loss.detach()
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        self.logged["accuracy"] = (self(x).argmax(1) == y).float().mean()

    def configure_optimizers(self):
        decayed = [p for p in self.parameters() if p.dim() > 1]
        plain = [p for p in self.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain}]
        optimizer = torch.optim.AdamW(groups, lr=0.01)
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=20)


def fit(module: Classifier, epochs: int) -> list[Any]:
    """What Lightning's Trainer does: clipping, accumulation, validation, closures."""
    optimizer, scheduler = module.configure_optimizers()
    seen = []
    for _ in range(epochs):
        module.train()
        for index, batch in enumerate(batches()):

            def closure(batch=batch, index=index):
                optimizer.zero_grad()
                loss = module.training_step(batch, index)
                loss.backward()
                nn.utils.clip_grad_norm_(module.parameters(), 0.5)
                return loss

            seen.append(optimizer.step(closure).detach())
            scheduler.step()
        module.eval()
        with torch.inference_mode():
            for index, batch in enumerate(batches()):
                module.validation_step(batch, index)
        seen.append(dict(module.logged))
    return [*seen, module.state_dict(), optimizer.state_dict(), torch.get_rng_state()]


# ---- Trainer and Accelerate: the loop is the library's, and wraps the model ----------------------


def with_autocast(model: nn.Module) -> None:
    """As Accelerate's prepare(): the forward of the instance is replaced by one under autocast."""
    forward = model.forward

    @functools.wraps(forward)
    def wrapped(*args, **kwargs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return forward(*args, **kwargs).float()

    model.forward = wrapped


def with_bound_autocast(model: nn.Module) -> None:
    """As it does where the forward is a method: bound to the instance again."""
    function = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward.__func__)
    model.forward = types.MethodType(function, model)


def trained(model: Any, epochs: int, prepare: Callable[[Any], None] | None = None) -> list[Any]:
    """Accumulation over two batches, clipping, an average of the weights, a checkpoint half-way."""
    if prepare is not None:
        prepare(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    average = None
    if prepare is None:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    seen: list[Any] = []
    for epoch in range(epochs):
        model.train()
        for index, (x, y) in enumerate(batches()):
            loss = F.cross_entropy(model(x), y) / 2
            loss.backward()
            seen.append(loss.detach())
            if index % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if average is not None:
                    average.update_parameters(model)
        scheduler.step()
        if epoch == 0:
            file = io.BytesIO()
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.seek(0)
            saved = torch.load(file)
            for p in model.parameters():
                nn.init.zeros_(p)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            model.zero_grad()
    if average is not None:
        average.eval()
        seen.append(average(torch.ones(2, 3, 8, 8)).detach())
        seen.append(dict(average.state_dict()))
    return [*seen, model.state_dict(), optimizer.state_dict(), torch.get_rng_state()]


# ---- each, twice ---------------------------------------------------------------------------------


def both(run: Callable[[Compile], list[Any]]) -> None:
    """The same run with the model and with the compiled model."""
    seen = []
    for compile_ in (lambda model: model, fxpass.compile):
        torch.manual_seed(0)
        seen.append(bits(run(compile_)))
    assert_same(*seen)


def test_lightning_with_a_compiled_network():
    both(lambda compile_: fit(Classifier(compile_(Net())), epochs=3))


@pytest.mark.filterwarnings("ignore:fxpass. these parts run their own forward")
def test_lightning_with_the_whole_module_compiled():
    both(lambda compile_: fit(compile_(Classifier(Net())), epochs=2))


def test_trainer():
    both(lambda compile_: trained(compile_(Net()), epochs=3))


@pytest.mark.filterwarnings("ignore:fxpass. these parts run their own forward")
@pytest.mark.parametrize("prepare", [with_autocast, with_bound_autocast])
def test_accelerate_prepares_the_model_first(prepare):
    def run(compile_):
        model = Net()
        prepare(model)
        return trained(compile_(model), epochs=2)

    both(run)


@pytest.mark.parametrize("prepare", [with_autocast, with_bound_autocast])
def test_accelerate_prepares_the_compiled_model(prepare):
    both(lambda compile_: trained(compile_(Net()), 2, prepare))
    model = fxpass.compile(Net())
    prepare(model)
    assert is_compiled(model(torch.ones(2, 3, 8, 8)))


def test_an_average_by_deepcopy():
    def run(compile_):
        model = compile_(Net())
        average = copy.deepcopy(model).requires_grad_(False)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, foreach=False)
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                for kept, p in zip(average.parameters(), model.parameters(), strict=True):
                    kept.lerp_(p, 0.1)
        return [dict(average.state_dict()), average.eval()(torch.ones(2, 3, 8, 8))]

    both(run)


def test_a_checkpoint_goes_from_one_to_the_other():
    torch.manual_seed(0)
    compiled, model = fxpass.compile(Net()), Net()
    trained(compiled, epochs=1)
    file = io.BytesIO()
    torch.save(compiled.state_dict(), file)
    file.seek(0)
    assert model.load_state_dict(torch.load(file), strict=True)
    x = torch.ones(2, 3, 8, 8)
    assert_same(bits(model.eval()(x)), bits(compiled.eval()(x)))
