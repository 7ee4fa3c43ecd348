"""What cannot be exported, and files that cannot be written: the error names it."""

import copy

import pytest
import torch
from test_export import IMAGES, pytestmark, small  # noqa: F401
from torch import nn
from torch.nn.utils import prune

import fxpass
from fxpass.errors import ExportError


def refusal(model, tmp_path, *call):
    compiled = fxpass.compile(model, *call)
    with pytest.raises(ExportError) as caught:
        fxpass.export_torchscript(compiled, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
    return str(caught.value)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_full_backward_hook"])
@pytest.mark.parametrize("path", ["", "0", "1.0", "1"])
def test_hooks(register, path, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1)))
    getattr(model.get_submodule(path), register)(lambda *args: None)
    message = refusal(model, tmp_path)
    assert f"{path or 'the model'} (" in message
    assert "hooks" in message


def test_pruned_weights_and_the_way_out(tmp_path):
    model = small()
    prune.l1_unstructured(model[3], "weight", 0.5)
    message = refusal(model, tmp_path)
    assert "3 (Conv2d) has hooks" in message
    assert "torch.nn.utils.prune.remove" in message
    prune.remove(model[3], "weight")
    fxpass.export_torchscript(fxpass.compile(model), tmp_path / "model.pt")


def test_parametrizations_and_the_way_out(tmp_path):
    model = small()
    torch.nn.utils.parametrizations.weight_norm(model[3])
    message = refusal(model, tmp_path)
    assert "3.weight" in message
    torch.nn.utils.parametrize.remove_parametrizations(model[3], "weight")
    fxpass.export_torchscript(fxpass.compile(model), tmp_path / "model.pt")


class Branches(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else torch.relu(x)


@pytest.mark.filterwarnings("ignore:fxpass. these parts run their own forward")
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: nn.Sequential(nn.ReLU(), m)])
def test_control_flow_on_values(wrap, tmp_path):
    message = refusal(wrap(Branches()), tmp_path)
    assert "Branches decides on a value known only at run time" in message


def test_a_function_that_torchscript_does_not_know(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            return (
                torch.einsum("nchw,nc->nhw", torch.relu(x), x.mean((2, 3))).to_sparse().to_dense()
            )

    class Odd(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            return torch.relu(y), y.data_ptr()

    fxpass.export_torchscript(fxpass.compile(Net()), tmp_path / "model.pt")
    (tmp_path / "model.pt").unlink()
    message = refusal(Odd(), tmp_path)
    assert "TorchScript cannot compile" in message
    assert "data_ptr" in message


def test_tensors_in_a_list(tmp_path):
    class Net(nn.Module):
        def forward(self, xs):
            return torch.relu(xs[0]) + xs[1]

    message = refusal(Net(), tmp_path, ([IMAGES, IMAGES],))
    assert "pass the tensors one by one" in message


def test_a_call_that_nobody_can_guess(tmp_path):
    class Net(nn.Module):
        def forward(self, *xs):
            return torch.relu(xs[0])

    assert "example_inputs" in refusal(Net(), tmp_path)
    fxpass.export_torchscript(fxpass.compile(Net(), (IMAGES,)), tmp_path / "model.pt")


def test_a_member_named_as_a_method_of_the_file(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.infer = nn.Linear(4, 4)

        def forward(self, x):
            return self.infer(x)

    assert "'infer'" in refusal(Net(), tmp_path)


@pytest.mark.parametrize("what", [nn.ReLU(), torch.relu, None])
def test_what_is_not_compiled(what, tmp_path):
    with pytest.raises(TypeError, match=r"expected what fxpass\.compile returned"):
        fxpass.export_torchscript(what, tmp_path / "model.pt")


def test_paths(tmp_path):
    compiled = fxpass.compile(nn.ReLU())
    with pytest.raises(TypeError, match="expected path to be a path, got int"):
        fxpass.export_torchscript(compiled, 3)
    with pytest.raises(FileNotFoundError, match="no directory"):
        fxpass.export_torchscript(compiled, tmp_path / "missing" / "model.pt")
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(OSError, match=r"model\.pt"):
        fxpass.export_torchscript(compiled, tmp_path / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_an_old_file_survives_a_failed_write(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    fxpass.export_torchscript(fxpass.compile(small()), path)
    before = path.read_bytes()

    def half(module, file, **kwargs):
        with open(file, "wb") as out:
            out.write(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.jit, "save", half)
    with pytest.raises(OSError, match="No space left"):
        fxpass.export_torchscript(fxpass.compile(nn.ReLU()), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_the_model_is_as_it_was(tmp_path):
    model = small()
    model[1].eval()
    twin = copy.deepcopy(model)
    rng = torch.get_rng_state()
    compiled = fxpass.compile(model)
    fxpass.export_torchscript(compiled, tmp_path / "model.pt")
    assert torch.equal(torch.get_rng_state(), rng)
    assert [m.training for m in model.modules()] == [m.training for m in twin.modules()]
    assert list(model.state_dict()) == list(twin.state_dict())
    state = zip(model.state_dict().values(), twin.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in state)
    assert all(p.grad is None for p in model.parameters())
    compiled(IMAGES).sum().backward()
