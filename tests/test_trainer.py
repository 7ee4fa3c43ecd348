"""`fxpass-train` against the same training in Python: losses and weights to the last bit."""

import json
import subprocess
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from _trainer import (
    BATCH,
    PROGRAM,
    SGD,
    SGD_OPTIONS,
    Files,
    compare,
    files,
    in_python,
    network,
    rows,
    train,
)
from torch import nn

import fxpass

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated:DeprecationWarning"),
    pytest.mark.usefixtures("one_thread"),
]

OPTIMIZERS = {
    "sgd": (partial(torch.optim.SGD, lr=0.1), ["--lr", 0.1]),
    "momentum": (SGD, SGD_OPTIONS),
    "dampening": (
        partial(torch.optim.SGD, lr=0.1, momentum=0.7, dampening=0.2),
        ["--lr", 0.1, "--momentum", 0.7, "--dampening", 0.2],
    ),
    "nesterov": (
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
        ["--lr", 0.1, "--momentum", 0.9, "--nesterov", "--weight-decay", 1e-2],
    ),
    "adam": (torch.optim.Adam, ["--optimizer", "adam"]),
    "adam, all its numbers": (
        partial(torch.optim.Adam, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=1e-2),
        [
            *("--optimizer", "adam", "--lr", 0.02, "--beta1", 0.8, "--beta2", 0.95),
            *("--eps", 1e-6, "--weight-decay", 1e-2),
        ],
    ),
    "adamw": (partial(torch.optim.AdamW, lr=0.02), ["--optimizer", "adamw", "--lr", 0.02]),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_python(name, tmp_path):
    make, options = OPTIMIZERS[name]
    run = compare(files(tmp_path), options, make, epochs=3)
    assert run.steps == list(range(1, 22))  # 50 rows make 7 batches, the last of 2 rows


@pytest.mark.parametrize("batch", [BATCH, 50, 64])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_takes_the_rows_that_the_loader_takes(batch, shuffle, drop_last, tmp_path):
    given = files(tmp_path)
    flags = ["--batch-size", batch, *(["--drop-last"] * drop_last)]
    options = [*SGD_OPTIONS, *flags, *(["--no-shuffle"] * (not shuffle))]
    if drop_last and batch > 50:
        assert "leaves no batch of 64 of its 50 rows" in train(given, *options, expect=1).error
        return
    compare(given, options, epochs=2, batch_size=batch, shuffle=shuffle, drop_last=drop_last)


def test_mean_squares(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).double()
    images = rows()[0].double()
    given = files(tmp_path, model, images, images)
    run = compare(given, [*SGD_OPTIONS, "--loss", "mse"], loss_fn=F.mse_loss, epochs=2)
    assert "accuracy" not in run.epochs[0]


def test_updates_within_backward_need_less_memory_for_the_same_bits(tmp_path):
    wide = nn.Sequential(nn.Flatten(), *(nn.Linear(192, 192) for _ in range(8)))
    given = files(tmp_path, wide)
    within = compare(given, SGD_OPTIONS)
    given = files(tmp_path, given.model)
    after = compare(given, [*SGD_OPTIONS, "--step-after-backward"])
    less = after.epochs[0]["peak_bytes"] - within.epochs[0]["peak_bytes"]
    assert less >= 6 * 192 * 192 * 4  # of eight gradients only one or two are alive at once


def test_frozen_parameters_and_shared_ones(tmp_path):
    model = network()
    model[0].requires_grad_(False)
    compare(files(tmp_path, model), SGD_OPTIONS, epochs=2)
    shared = nn.Linear(192, 192)
    model = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(192, 10))
    compare(files(tmp_path, model), SGD_OPTIONS, epochs=2)


class OneGradientForTwo(nn.Module):
    """Autograd hands the gradient of the sum to both, the second as a view of the first."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8, 24)), nn.Parameter(torch.randn(192))
        self.last = nn.Linear(192, 10)

    def forward(self, x):
        weight = self.a + self.b.view(8, 24)
        return self.last(x.flatten(1) * torch.relu(weight.view(192)))


@pytest.mark.parametrize("flags", [[], ["--step-after-backward"]])
@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam, all its numbers"])
def test_parameters_whose_gradients_share_memory(name, flags, tmp_path):
    make, options = OPTIMIZERS[name]
    torch.manual_seed(0)
    compare(files(tmp_path, OneGradientForTwo()), [*options, *flags], make, epochs=2)


def test_channels_last_weights_keep_their_strides(tmp_path):
    model = network().to(memory_format=torch.channels_last)
    compare(files(tmp_path, model), SGD_OPTIONS, epochs=2)


def test_the_epochs_report(tmp_path):
    given = files(tmp_path)
    held_out = tmp_path / "more.safetensors"
    images, labels = rows(70)
    fxpass.save_dataset(held_out, images[50:], labels[50:])
    torch.manual_seed(0)
    run = compare(given, [*SGD_OPTIONS, "--eval-data", held_out], epochs=2)
    last = run.epochs[-1]
    with torch.no_grad():
        output = given.model.eval()(images[50:])
    assert last["eval_accuracy"] == pytest.approx(
        (output.argmax(1) == labels[50:]).float().mean().item()
    )
    assert last["eval_loss"] == pytest.approx(F.cross_entropy(output, labels[50:]).item())
    weights = torch.tensor([8.0] * 6 + [2.0])
    for number, epoch in enumerate(run.epochs):
        losses = torch.tensor(run.losses[7 * number : 7 * number + 7])
        assert epoch["loss"] == pytest.approx((losses * weights).sum().item() / 50)
        assert (epoch["epoch"], epoch["complete"]) == (number + 1, True)
        assert epoch["accuracy"] * 50 == pytest.approx(round(epoch["accuracy"] * 50))
    assert 0 < last["resident_bytes_before_model"] < last["peak_resident_bytes"]
    assert last["peak_bytes"] > sum(p.nbytes for p in given.model.parameters())


def test_accuracy(tmp_path):
    images, labels = rows()
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    given = files(tmp_path, model, images, labels)
    run = train(given, "--lr", 0)
    right = (model(images).argmax(1) == labels).sum().item()
    assert run.epochs[0]["accuracy"] == right / 50


def test_peak_bytes_are_those_of_python(tmp_path):
    # Large enough for the text of the graphs (25 kB), which TorchScript keeps there, not to count.
    given = files(tmp_path, network(), rows()[0].repeat(1, 1, 8, 8))
    del given.model[:]  # only the one made here is counted
    with fxpass.memory.track() as memory:
        model = fxpass.compile(network())
        in_python(model, given.images, given.labels)
    run = train(given, *SGD_OPTIONS, "--step-after-backward")
    assert run.epochs[0]["peak_bytes"] <= 1.02 * memory.peak_bytes


def test_the_output_is_an_archive_like_the_one_it_came_from(tmp_path):
    given = files(tmp_path)
    train(given, *SGD_OPTIONS, "--output", given.output)
    descriptions = []
    for path in (given.archive, given.output):
        extra = {"fxpass.json": ""}
        loaded = torch.jit.load(path, _extra_files=extra)
        descriptions.append(json.loads(extra["fxpass.json"]))
        assert loaded.training
        assert loaded.infer(given.images[:3]).shape == (3, 10)
    assert descriptions[0] == descriptions[1]
    again = Files(tmp_path, given.model, given.images, given.labels)
    again.output.replace(again.archive)
    train(again, *SGD_OPTIONS)


def test_a_model_exported_in_evaluation_mode_is_trained_all_the_same(tmp_path):
    given = files(tmp_path, network().eval())
    given.model.train()
    compare(given, SGD_OPTIONS)
    assert not torch.jit.load(given.output).training


def test_freed_memory_goes_back_to_the_system(tmp_path):
    images, labels = rows()
    given = files(tmp_path, network(), images.repeat(1, 1, 32, 32), labels)
    run = {
        flag: train(given, *flag, "--max-steps", 4).epochs[0]["peak_resident_bytes"]
        for flag in ((), ("--keep-freed-memory",))
    }
    assert run[()] < 0.9 * run[("--keep-freed-memory",)]


def test_no_python_in_the_process():
    said = subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=True).stdout
    libraries = {line.split()[0] for line in said.splitlines()}
    assert {"libfxpass_ops.so", "libtorch_cpu.so"} < libraries
    assert not any("python" in name for name in libraries)
    assert "not found" not in said


def test_for_people(tmp_path):
    given = files(tmp_path)
    done = subprocess.run(
        [PROGRAM, "--model", given.archive, "--data", given.data, "--max-steps", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("epoch 1 (part of it)  loss ")
    assert " MiB before the model)\n" in done.stdout
