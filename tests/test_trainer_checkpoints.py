"""Checkpoints of `fxpass-train`: resumed as if never stopped, and whole whatever happens."""

import fcntl
import json
import resource
import signal
import zlib
from pathlib import Path

import pytest
import torch
from _trainer import (
    SGD_OPTIONS,
    assert_same_state,
    files,
    in_python,
    network,
    rows,
    train,
    train_until,
)
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import fxpass

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated:DeprecationWarning"),
    pytest.mark.usefixtures("one_thread"),
]

ADAM = ("--optimizer", "adam", "--lr", 0.01)


@pytest.fixture
def given(tmp_path):
    return files(tmp_path)


def saving(given, *options):
    """Options with a checkpoint."""
    return (*SGD_OPTIONS, "--epochs", 3, "--checkpoint", given.checkpoint, *options)


@pytest.mark.parametrize("optimizer", [SGD_OPTIONS, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_resumes_as_if_never_stopped(optimizer, channels_last, tmp_path):
    format = torch.channels_last if channels_last else torch.contiguous_format
    given = files(tmp_path, network().to(memory_format=format))
    options = (*optimizer, "--epochs", 3, "--checkpoint", given.checkpoint)
    whole = train(given, *options, "--output", given.output)
    expected, weights = given.checkpoint.read_bytes(), torch.jit.load(given.output)
    given.checkpoint.unlink()
    losses = []
    for stop in (3, 7, 9, 21):  # within an epoch, at its end, soon after, at the end
        losses += train(
            given, *options, "--max-steps", stop, "--resume", "--output", given.output
        ).losses
    assert losses == whole.losses
    assert given.checkpoint.read_bytes() == expected
    assert_same_state(weights, given.output)


def test_signals_stop_it_after_a_whole_step(given):
    expected = train(given, *SGD_OPTIONS, "--epochs", 300, "--max-steps", 2000).losses
    options = (*SGD_OPTIONS, "--epochs", 300, "--checkpoint", given.checkpoint, "--resume")
    losses = []
    for number in (signal.SIGTERM, signal.SIGINT):
        stopped = train_until(given, len(losses) + 60, number, *options)
        assert stopped.code == 3, stopped
        assert stopped.notes[-1] == f"stopped by a signal after step {stopped.steps[-1]}"
        losses += stopped.losses
    losses += train(given, *options, "--max-steps", 2000).losses
    assert losses == expected


def test_killed_while_it_saves(given):
    options = (*SGD_OPTIONS, "--epochs", 300, "--max-steps", 900)
    expected = train(given, *options).losses
    saved = (*options, "--checkpoint", given.checkpoint, "--checkpoint-every", 1, "--resume")
    for step in (20, 45, 333):
        killed = train_until(given, step, signal.SIGKILL, *saved)
        assert killed.code == -signal.SIGKILL
    last = train(given, *saved)
    assert last.notes[0].startswith("going on after step ")
    assert last.losses == expected[-len(last.losses) :]
    assert len(last.losses) <= 900 - 333 + 1


def test_resume_where_there_is_none_begins_anew(given):
    first = train(given, *saving(given), "--resume")
    assert first.notes == [f"no checkpoint at {given.checkpoint} yet: beginning anew"]
    again = train(given, *saving(given), expect=1)
    assert "is there already; go on from it with --resume, or remove it" in again.error
    done = train(given, *saving(given), "--resume")
    assert done.losses == []


def test_readable_in_python(given):
    train(given, *saving(given), "--output", given.output)
    tensors = load_file(given.checkpoint)
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    trained = torch.jit.load(given.output)
    assert_same_state(trained, weights)
    momentum = {n for n in tensors if n.startswith("optimizer.")}
    assert momentum == {f"optimizer.momentum_buffer.{n}" for n, _ in trained.named_parameters()}
    with safe_open(given.checkpoint, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["progress"])["steps"] == 21
    assert json.loads(metadata["settings"])["lr"] == 0.1
    raw = given.checkpoint.read_bytes()
    assert zlib.crc32(raw.replace(metadata["crc32"].encode(), b"00000000", 1)) == int(
        metadata["crc32"], 16
    )
    torch.manual_seed(7)
    model = network()
    in_python(model, given.images, given.labels, epochs=3)
    assert torch.equal(tensors["rng"], torch.get_rng_state())


@pytest.mark.parametrize("part", ["header", "metadata", "tensors", "last byte"])
def test_a_damaged_one_is_told_from_a_good_one(part, given):
    train(given, *saving(given))
    raw = bytearray(given.checkpoint.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    place = {
        "header": raw.index(b"momentum_buffer"),
        "metadata": raw.index(b'\\"steps\\":21') + 11,
        "tensors": 8 + length + 100,
        "last byte": len(raw) - 1,
    }[part]
    raw[place] ^= 1
    given.checkpoint.write_bytes(raw)
    run = train(given, *saving(given), "--resume", expect=1)
    assert "damaged: its checksum (crc32) is" in run.error


def test_a_cut_one(given):
    train(given, *saving(given))
    raw = given.checkpoint.read_bytes()
    for size in (0, 5, 100, len(raw) // 2, len(raw) - 1):
        given.checkpoint.write_bytes(raw[:size])
        run = train(given, *saving(given), "--resume", expect=1)
        assert f"{given.checkpoint}: " in run.error
        assert "short" in run.error
    given.checkpoint.write_bytes(raw)
    train(given, *saving(given), "--resume")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--lr", 0.05], "made with lr 0.1, not 0.05"),
        (["--batch-size", 4], "made with batch-size 8, not 4"),
        (["--seed", 8], "made with seed 7, not 8"),
        (["--threads", 2], "made with threads 1, not 2"),
        (["--drop-last"], "made with drop-last false, not true"),
    ],
)
def test_other_settings(options, says, given):
    plain = ("--epochs", 1, "--checkpoint", given.checkpoint)
    train(given, "--lr", 0.1, *plain)
    assert says in train(given, "--lr", 0.1, *plain, "--resume", *options, expect=1).error


def test_another_model_and_other_data(given, tmp_path):
    train(given, *saving(given))
    images, labels = rows(49)
    fxpass.save_dataset(given.data, images, labels)
    run = train(given, *saving(given), "--resume", expect=1)
    assert "made with data rows 50, not 49" in run.error or "made with data bytes" in run.error
    files(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(192, 10)))
    run = train(given, *saving(given), "--resume", expect=1)
    assert "of another model: model.1.bias is float32 [8], the model's is" in run.error
    checkpoint = load_file(given.checkpoint)
    fxpass.save_dataset(given.checkpoint, checkpoint["rng"], checkpoint["rng"].long())
    run = train(given, *saving(given), "--resume", expect=1)
    assert "not a checkpoint of this fxpass-train" in run.error


def files_may_have(limit):
    """What a full disk is to a process: write() fails after so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def test_a_full_disk_while_it_saves_a_checkpoint(given):
    train(given, *saving(given), "--max-steps", 7)
    good = given.checkpoint.read_bytes()
    full = files_may_have(len(good) // 2)
    run = train(given, *saving(given), "--resume", expect=1, preexec_fn=full)
    assert f"{given.checkpoint}.tmp: cannot write: File too large" in run.error
    assert given.checkpoint.read_bytes() == good
    assert not list(given.folder.glob("*.tmp"))
    assert train(given, *saving(given), "--resume").steps == list(range(8, 22))


def test_a_full_disk_while_it_writes_the_model(given):
    train(given, *SGD_OPTIONS, "--output", given.output)
    good = given.output.read_bytes()
    for part in (0, 1000, len(good) // 2, len(good) - 1):
        full = files_may_have(part)
        options = (*SGD_OPTIONS, "--lr", 0.2, "--output", given.output)
        run = train(given, *options, expect=1, preexec_fn=full)
        assert f"{given.output}.tmp: cannot write: File too large" in run.error
        assert given.output.read_bytes() == good
        assert not list(given.folder.glob("*.tmp"))


def test_a_folder_that_cannot_be_written(given):
    missing = given.folder / "missing" / "x"
    run = train(given, *SGD_OPTIONS, "--checkpoint", missing, expect=1)
    assert f"{missing}.tmp: cannot create: No such file or directory" in run.error


def test_two_at_once_do_not_write_one_file(given):
    with Path(f"{given.checkpoint}.tmp").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run = train(given, *saving(given), expect=1)
    assert "another process is writing it" in run.error
