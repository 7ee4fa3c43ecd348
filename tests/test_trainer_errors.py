"""What `fxpass-train` says of bad input: one line, exit code 1, and never a crash."""

import json
import subprocess
import zipfile

import pytest
import torch
from _bits import examples
from _trainer import PROGRAM, SGD_OPTIONS, files, network, rows, train
from hypothesis import given as for_all
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn

import fxpass

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated:DeprecationWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return files(tmp_path_factory.mktemp("good"))


def error_of(given, *options):
    return train(given, *options, expect=1).error


def test_files_that_are_not_there(given, tmp_path):
    missing = tmp_path / "missing"
    for option in ("--model", "--data", "--eval-data"):
        said = error_of(given, option, missing)
        assert f"{missing}: cannot open: No such file or directory" in said
    assert "expected a file, got something else" in error_of(given, "--data", tmp_path)


def test_a_data_file_that_is_cut(given, tmp_path):
    raw = given.data.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for size in (0, 7, 8, 60, 200, len(raw) - 1):
        cut.write_bytes(raw[:size])
        assert "short" in error_of(given, "--data", cut), size
    cut.write_bytes(raw + b"x")
    assert "too long: by its header it has" in error_of(given, "--data", cut)


HEADER = {
    "images": {"dtype": "F32", "shape": [2, 3, 8, 8], "data_offsets": [0, 1536]},
    "labels": {"dtype": "I64", "shape": [2], "data_offsets": [1536, 1552]},
}


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (["images", "shape"], [2, 3, 8, 9], "need 1728 bytes, it has 1536"),
        (["images", "shape"], [2, 3, 8, -8], "a size is no number >= 0"),
        (["images", "shape"], [2**40, 2**40, 2], "its sizes are too large"),
        (["images", "shape"], 3, "its shape is no list"),
        (["images", "dtype"], "F8_E4M3", "its type F8_E4M3 is not known here"),
        (["images", "dtype"], 3, "images cannot be read"),
        (["images", "data_offsets"], [16, 1552], "its tensors overlap or leave gaps"),
        (["images", "data_offsets"], [1536, 0], "its data_offsets are no place in a file"),
        (["images", "data_offsets"], [0, 2**63], "its data_offsets are no place in a file"),
        (["images", "data_offsets"], [-5, 1531], "its data_offsets are no place in a file"),
        (["images"], {}, "images cannot be read"),
        (["images"], None, "images cannot be read"),
        (["__metadata__"], {"a": 1}, "__metadata__ cannot be read"),
        (["more"], {"dtype": "U8", "shape": [0], "data_offsets": [9, 9]}, "overlap or leave gaps"),
    ],
)
def test_a_data_file_whose_header_lies(where, value, says, given, tmp_path):
    header = json.loads(json.dumps(HEADER))
    inner = header
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(1552))
    assert says in error_of(given, "--data", path)


@examples(40)
@for_all(data=st.data())
def test_bytes_changed_at_random_never_crash_it(data, given):
    raw = bytearray(save({"images": rows(2)[0], "labels": rows(2)[1]}))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    path = given.folder / "changed.safetensors"
    path.write_bytes(raw)
    done = subprocess.run(
        [PROGRAM, "--model", given.archive, "--data", path], capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done
    assert done.stderr.count("\n") == done.returncode, done


def test_images_that_do_not_fit_the_model(given, tmp_path):
    images, labels = rows(4)
    path = tmp_path / "x.safetensors"
    for wrong, says in {
        images[:, :, :7]: "its images are float32 [3, 7, 8] a row, the model was exported for"
        " float32 [3, 8, 8]",
        images.double(): "its images are float64 [3, 8, 8] a row",
        images.flatten(1): "its images are float32 [192] a row",
    }.items():
        fxpass.save_dataset(path, wrong, labels)
        assert says in error_of(given, "--data", path)
        assert says in error_of(given, "--eval-data", path)


@pytest.mark.parametrize(
    ("labels", "options", "says"),
    [
        (torch.tensor([0, 3, 10, 9]), [], "the label of row 2 is 10, but the model has 10 classes"),
        (torch.tensor([0, -1, 9, 9]), [], "the label of row 1 is -1, but the model has 10 classes"),
        (torch.zeros(4), [], "cross-entropy needs int64 labels, got float32 [4]; for other labels"),
        (torch.zeros(4, 2).long(), [], "the labels, int64 [4, 2], do not fit the model's output"),
        (torch.zeros(4).long(), ["--loss", "mse"], "--loss mse needs labels of the output's type"),
        (torch.zeros(4, 9), ["--loss", "mse"], "the labels, float32 [4, 9], do not fit"),
        (torch.zeros(4, 10).double(), ["--loss", "mse"], "float64 [4, 10], do not fit"),
    ],
)
def test_labels_that_do_not_fit_the_model(labels, options, says, given, tmp_path):
    path = tmp_path / "x.safetensors"
    fxpass.save_dataset(path, rows(4)[0], labels)
    assert says in error_of(given, "--data", path, *options)


def test_a_data_file_of_something_else(given, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert f"{path}: has no tensor named images" in error_of(given, "--data", path)
    save_file({"images": torch.zeros(3, 2), "labels": torch.zeros(2)}, path)
    assert "expected images and labels with as many rows" in error_of(given, "--data", path)
    path.write_bytes(b"PK" + bytes(1000))
    assert "not a safetensors file" in error_of(given, "--data", path)


def rewritten(given, path, change):
    """The archive with the text of one of its files changed."""
    with zipfile.ZipFile(given.archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def test_an_archive_of_another_version_of_the_operators(given, tmp_path):
    path = tmp_path / "x.pt"
    rewritten(
        given,
        path,
        lambda name, raw: (
            raw.replace(b'"op_version": 1', b'"op_version": 2') if "fxpass.json" in name else raw
        ),
    )
    said = error_of(given, "--model", path)
    assert "exported with version 2 of fxpass' operators, this fxpass-train has version 1" in said


def test_an_archive_with_an_operator_that_is_not_there(given, tmp_path):
    path = tmp_path / "x.pt"
    rewritten(
        given,
        path,
        lambda name, raw: raw.replace(b"ops.fxpass.", b"ops.other_.") if ".py" in name else raw,
    )
    said = error_of(given, "--model", path)
    assert "calls an operator that no library here has" in said
    assert "other_::" in said
    assert "--library" in said
    assert "cannot open shared object file" in error_of(given, "--library", "/missing.so")


def test_a_file_that_is_no_archive_of_fxpass(given, tmp_path):
    path = tmp_path / "x.pt"
    torch.jit.script(nn.Linear(2, 2)).save(path)
    assert "not an archive of fxpass; write it with fxpass.export" in error_of(
        given, "--model", path
    )
    torch.save(network().state_dict(), path)
    assert "not a whole TorchScript archive" in error_of(given, "--model", path)
    raw = given.archive.read_bytes()
    for size in (0, 100, len(raw) // 2, len(raw) - 10):
        path.write_bytes(raw[:size])
        assert "not a whole TorchScript archive" in error_of(given, "--model", path)


def test_a_model_that_returns_more_than_one_tensor(tmp_path):
    class Two(nn.Module):
        def forward(self, x):
            return x.flatten(1), x

    model = nn.Sequential(nn.Conv2d(3, 3, 1), Two())
    said = error_of(files(tmp_path, model), *SGD_OPTIONS)
    assert "fxpass-train needs one tensor" in said


def test_the_command_line(given):
    for options, says in {
        (): "--model is required",
        ("--lr", "-1"): "--lr: expected a number >= 0, got -1",
        ("--optimizer", "lion"): "--optimizer: expected sgd or adam or adamw, got lion",
        ("--loss", "l1"): "--loss: expected cross-entropy or mse, got l1",
        ("--epochs", "0"): "--epochs: expected a number >= 1, got 0",
        ("--beta1", "0.5"): "--beta1: is for --optimizer adam and adamw",
        ("--optimizer", "adam", "--momentum", "1"): "--momentum: is for --optimizer sgd",
        ("--nesterov",): "--nesterov: needs a --momentum above 0 and no --dampening",
        ("--resume",): "--resume requires --checkpoint",
        ("--whatever",): "The following argument was not expected: --whatever",
    }.items():
        required = ["--model", given.archive, "--data", given.data] if options else []
        done = subprocess.run([PROGRAM, *required, *options], capture_output=True, text=True)
        assert done.returncode == 2
        assert says in done.stderr, done.stderr
    for option in ("--help", "--version"):
        assert subprocess.run([PROGRAM, option], capture_output=True).returncode == 0
