"""`fxpass.export_torchscript`: the file trains as eager does, under TorchScript's own executor."""

import copy
import json
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from _exact import recordings, weighted
from _exported import Loaded, Unpacks, exported
from _twins import saved_bytes
from torch import Tensor, nn

import fxpass
from bench._models import make
from fxpass._oracle import Loop, compare

# Of torch.jit.load, which is called here to read what was written.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated:DeprecationWarning")

STEPS = 5  # TorchScript profiles the first calls and optimises for later ones


def assert_trains_exactly(model, *inputs, steps=STEPS, directory, **export):
    """The loaded module equals the model over the steps, both in the mode that the model is in."""
    script = exported(fxpass.compile(model, **export), directory)
    loaded = Loaded(script).train(model.training)
    eager, found = recordings(model, loaded, inputs, Loop(steps, weighted))
    if eager.error is not None:
        raise eager.error
    wrong = compare(eager, found)
    assert not wrong, "\n".join(map(str, wrong))
    return script


def small():
    """Bitmaps, codes, masks, a re-run and an affine recipe, dropout, and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3)),
        *(nn.Conv2d(8, 8, 3), nn.Hardswish(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(32, 16), nn.LayerNorm(16), nn.Sigmoid(), nn.Linear(16, 4)),
    )


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [True, False])
def test_each_mode_trains_exactly(training, tmp_path):
    model = small().train(training)
    assert_trains_exactly(model, IMAGES, directory=tmp_path)
    assert_trains_exactly(model, IMAGES.clone().requires_grad_(), directory=tmp_path)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "googlenet", "shufflenet_v2_x1_0", "squeezenet1_1"]
)
def test_models_of_torchvision(name, tmp_path):
    model = make(name)
    images = torch.randn(2, 3, 64, 64)
    script = assert_trains_exactly(model, images, directory=tmp_path, steps=4)
    model.eval()
    with torch.no_grad():
        expected = model(images)
    for _ in range(3):
        assert torch.equal(script.infer(images), expected)


def test_attention_and_recurrence_stay_torchs_own(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
            self.recurrent = nn.LSTM(8, 8, batch_first=True)
            self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x):
            y, _ = self.attention(x, x, x)
            z, _ = self.recurrent(y)
            return self.head(z.mean(1))

    assert_trains_exactly(Net(), torch.randn(2, 5, 8), directory=tmp_path)


def test_the_mode_is_the_loaded_modules(tmp_path):
    model = small()
    script = exported(fxpass.compile(model), tmp_path)
    for training in (False, True, False):
        model.train(training)
        script.train(training)
        torch.manual_seed(3)
        expected = model(IMAGES)
        torch.manual_seed(3)
        assert torch.equal(script(IMAGES), expected)
        assert torch.equal(script.infer(IMAGES), copy.deepcopy(model).eval()(IMAGES))
    assert not script.infer(IMAGES).requires_grad


def test_a_model_exported_in_evaluation_mode_trains(tmp_path):
    model = small().eval()
    script = exported(fxpass.compile(model), tmp_path)
    assert not script.training
    torch.manual_seed(3)
    expected = copy.deepcopy(model).train()(IMAGES)
    torch.manual_seed(3)
    assert torch.equal(script.train()(IMAGES), expected)


@pytest.mark.parametrize("training", [True, False])
def test_it_keeps_what_the_compiled_model_keeps(training, tmp_path):
    model = small().train(training)
    compiled = fxpass.compile(model)
    loaded = Loaded(exported(compiled, tmp_path)).train(training)
    images = torch.randn(8, 3, 16, 16)
    for _ in range(4):
        assert saved_bytes(loaded, images) == saved_bytes(compiled, images)
    assert saved_bytes(compiled, images) < 0.6 * saved_bytes(model, images)


def test_a_frozen_batch_norm_stays_frozen(tmp_path):
    model = small()
    model[1].eval()
    assert_trains_exactly(model, IMAGES, directory=tmp_path)
    assert model.training
    assert not model[1].training


def test_infer_uses_the_statistics_whatever_the_mode(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    script = exported(fxpass.compile(model), tmp_path).train()
    expected = copy.deepcopy(model).eval()(IMAGES)
    assert torch.equal(script.infer(IMAGES), expected)


def test_weights_frozen_before_the_export_stay_so(tmp_path):
    model = small()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("14") or "bias" in name)
    script = assert_trains_exactly(model, IMAGES, directory=tmp_path)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: p.requires_grad for name, p in script.named_parameters()} == flags


def test_the_same_names_in_the_same_order(tmp_path):
    model = make("resnet18")
    script = exported(fxpass.compile(model), tmp_path)
    for of in (nn.Module.named_parameters, nn.Module.named_buffers):
        assert [name for name, _ in of(script)] == [name for name, _ in of(model)]
    model.load_state_dict(script.state_dict())


def test_a_tensor_with_two_names_is_there_once(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[4] = model[0]
    script = assert_trains_exactly(model, torch.randn(3, 4), directory=tmp_path)
    assert [name for name, _ in script.named_parameters()] == ["0.weight", "0.bias", "2.bias"]


def test_any_batch_size(tmp_path):
    model = small()
    script = exported(fxpass.compile(model, (IMAGES,)), tmp_path)
    for count in (1, 3, 2, 5, 3):
        images = torch.randn(count, 3, 8, 8)
        torch.manual_seed(1)
        expected = model(images)
        torch.manual_seed(1)
        assert torch.equal(script(images), expected)


def metadata_of(path):
    files = {"fxpass.json": ""}
    torch.jit.load(path, _extra_files=files)
    return json.loads(files["fxpass.json"])


def test_the_file_says_what_it_is(tmp_path):
    path = tmp_path / "model.pt"
    compiled = fxpass.compile(small())
    fxpass.export_torchscript(compiled, path)
    found = metadata_of(path)
    assert found["inputs"] == [{"name": "input_1", "shape": None, "dtype": None}]
    assert (found["torch"], found["model"]) == (torch.__version__, "Sequential")
    assert found["op_version"] == fxpass._C.OP_VERSION
    plan = fxpass.Plan.from_json(json.dumps(found["plan"]))
    assert str(plan) == str(compiled.plan)
    compiled(IMAGES)
    fxpass.export_torchscript(compiled, path)
    assert metadata_of(path)["inputs"][0] == {
        "name": "input_1",
        "shape": [2, 3, 8, 8],
        "dtype": "float32",
    }
    fxpass.export_torchscript(fxpass.compile(small(), (IMAGES[:1],)), path)
    assert metadata_of(path)["inputs"][0]["shape"] == [1, 3, 8, 8]


def test_the_users_plan_is_followed(tmp_path):
    plan = fxpass.compile(small()).plan
    dense = fxpass.compile(small(), plan=plan.with_dense(*(c.value for c in plan)))
    script = exported(dense, tmp_path)
    assert "fxpass::relu" not in str(script.forward_train.graph)
    assert "fxpass::relu" in str(exported(fxpass.compile(small()), tmp_path).forward_train.graph)


# What the executor may not do.


def kinds_of(graph):
    def nodes(block):
        for node in block.nodes():
            yield node
            for inner in node.blocks():
                yield from nodes(inner)

    return [node.kind() for node in nodes(graph)]


def test_nothing_is_differentiated_or_fused_by_the_executor(tmp_path):
    script = exported(fxpass.compile(make("mobilenet_v2")), tmp_path)
    for _ in range(4):
        script(torch.randn(2, 3, 32, 32)).sum().backward()
    ran = torch.jit.last_executed_optimized_graph()
    kinds = {kind for kind in kinds_of(ran) if not kind.startswith(("fxpass::", "prim::Constant"))}
    assert not {kind for kind in kinds if "Differentiable" in kind or "Fusion" in kind}
    assert kinds <= {
        *("prim::GetAttr", "prim::ListConstruct", "prim::TupleConstruct", "prim::TupleUnpack"),
        *("prim::If", "prim::profile", "prim::RaiseException", "aten::size", "prim::TypeCheck"),
    }


def test_two_calls_that_are_alike_are_two(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.pool = nn.AvgPool2d(2)

        def forward(self, x):
            a, b = self.conv(x) * 0.7, self.conv(x) * 1.3
            y = F.dropout(x, 0.5) + F.dropout(x, 0.5)
            return self.pool(a + b) * self.pool(a + b), y, torch.tanh(x) * torch.tanh(x)

    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    assert_trains_exactly(Net(), x, directory=tmp_path)


def test_what_draws_random_numbers_draws_them_at_each_call(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            noise = F.dropout(torch.ones_like(x), 0.5) + F.alpha_dropout(x, 0.4)
            return torch.bernoulli(torch.sigmoid(x)) + noise

    assert_trains_exactly(Net(), torch.randn(4, 4, requires_grad=True), directory=tmp_path)


def test_writes_in_place(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("steps", torch.zeros(2))

        def forward(self, x):
            self.steps.add_(1)
            y = F.relu_(self.conv(x).mul(2))
            z = y + 1
            z += 1
            z[:, 1].mul_(self.steps[0])
            return z.view(z.size(0), -1)[:, ::2], self.steps

    assert_trains_exactly(Net(), IMAGES, directory=tmp_path)


def test_no_flag_of_the_executor_is_touched(tmp_path):
    def flags():
        return (
            torch._C._jit_set_profiling_executor(True),
            torch._C._get_graph_executor_optimize(),
            torch._C._jit_set_profiling_mode(True),
        )

    before = flags()
    script = exported(fxpass.compile(small()), tmp_path)
    script(IMAGES).sum().backward()
    assert flags() == before


# What models return, and take.


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "ordered", "named", "nested"])
def test_kinds_of_results(kind, tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            y = F.relu(self.conv(x))
            z = F.max_pool2d(y, 2)
            if kind == "tuple":
                return y, z
            if kind == "list":
                return [y, z]
            if kind == "dict":
                return {"y": y, "z": z}
            if kind == "ordered":
                return OrderedDict([("z", z), ("y", y)])
            return Pair(y, z) if kind == "named" else ((y, [z]), {"y": y})

    model = Net()
    script = exported(fxpass.compile(model), tmp_path)
    for found in (script(IMAGES), script.infer(IMAGES)):
        expected = model(IMAGES)
        if kind == "ordered":
            assert list(found) == ["z", "y"]
            expected = dict(expected)
        leaves = zip(*(torch.utils._pytree.tree_leaves(v) for v in (found, expected)), strict=True)
        assert all(torch.equal(a, b) for a, b in leaves)


def test_several_inputs_and_arguments_that_are_no_tensors(tmp_path):
    class Net(nn.Module):
        def forward(self, x, y, scale=1.0, *, mask=None):
            z = torch.relu(x) * y * scale
            return z if mask is None else z * mask

    x, y, mask = torch.randn(3, 4, 5).unbind(0)
    model = Net()
    compiled = fxpass.compile(model)
    compiled(x, y, 2.5, mask=mask)
    script = exported(compiled, tmp_path)
    assert torch.equal(script(x, y, mask), model(x, y, 2.5, mask=mask))
    assert torch.equal(script(x, y, mask=mask), model(x, y, 2.5, mask=mask))


def test_a_part_that_was_compiled_before(tmp_path):
    inner = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), fxpass.compile(inner), nn.Flatten())
    plain = nn.Sequential(model[0], inner, model[2])
    script = exported(fxpass.compile(model), tmp_path)
    assert str(script.forward_train.graph).count("fxpass::relu") == 2
    assert torch.equal(script(IMAGES), plain(IMAGES))


def test_shapes_and_unpacking(tmp_path):
    images = IMAGES.clone().requires_grad_()
    script = assert_trains_exactly(Unpacks(), images, directory=tmp_path)
    for _ in range(2):
        with pytest.raises(torch.jit.Error, match="AssertionError"):
            script(torch.randn(2, 4, 8, 8))
