"""fxpass.profile: its bytes are the allocator's, and its rows tell where they are."""

import copy
import gc
import linecache

import pytest
import torch
from _bits import bits
from torch import nn

import fxpass
from bench import _models
from fxpass.inspect.watcher import Watcher
from fxpass.plan import Recipe

IMAGE = 2 * 4 * 8 * 8 * 4  # bytes of a value of the small networks


def small():
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def images(channels=4, side=8, **options):
    return torch.randn(2, channels, side, side, **options)


def rows_of(profile):
    return {(row.module, row.op, row.dtype): row for row in profile.edges}


def assert_adds_up(profile):
    assert profile.not_attributed_bytes == 0
    assert sum(row.kept_bytes for row in profile.edges) == profile.saved_bytes > 0


def test_the_rows_of_eager_by_hand():
    profile = fxpass.profile(small(), images())
    assert profile.eager is None
    assert_adds_up(profile)
    found = [(r.module, r.op, r.savers, r.shape, r.dense_bytes) for r in profile.edges]
    indices = IMAGE // 4 * 2
    assert found == [
        ("0", "Conv2d", ("ReluBackward0 1", "ConvolutionBackward0 2"), (2, 4, 8, 8), IMAGE),
        ("3", "ReLU", ("ReluBackward0 3", "MaxPool2DWithIndicesBackward0 4"), (2, 4, 8, 8), IMAGE),
        ("4", "MaxPool2d", ("AddmmBackward0 6",), (2, 64), IMAGE // 4),
        ("4", "MaxPool2d", ("MaxPool2DWithIndicesBackward0 4",), (2, 4, 4, 4), indices),
        ("6", "Linear", ("the caller",), (2, 3), 24),
    ]
    for row in profile.edges:
        assert (row.recipe, row.kept_bytes, row.restore_seconds) == ("dense", row.dense_bytes, 0)


def test_the_rows_of_a_compiled_model_by_hand():
    model, x = small(), images()
    profile = fxpass.profile(fxpass.compile(model), x)
    assert_adds_up(profile)
    assert_adds_up(profile.eager)
    assert profile.eager.saved_bytes == fxpass.profile(model, x).saved_bytes
    assert [row.dense_bytes for row in profile.edges] == [
        row.dense_bytes for row in profile.eager.edges
    ]
    with torch.no_grad():
        first = model[0](x)
    rows = rows_of(profile)
    relu = rows["0", "Conv2d", torch.float32]
    assert relu.recipe == Recipe.BITMAP
    assert relu.kept_bytes == IMAGE // 32 + 4 * int((first > 0).sum())
    assert relu.restore_seconds > 0
    pooled = rows["3", "ReLU", torch.float32]
    assert (pooled.recipe, pooled.kept_bytes) == (Recipe.CODE, IMAGE // 4 * 3 // 32)
    indices = rows["4", "MaxPool2d", torch.int64]
    assert (indices.recipe, indices.kept_bytes) == (Recipe.CODE, 0)
    output = rows["6", "Linear", torch.float32]
    assert (output.recipe, output.kept_bytes) == (Recipe.DENSE, 24)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.act, self.conv = nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 4, 1)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return x + self.drop(self.conv(self.act(self.bn(x))))


class Loops(nn.Module):
    """No trace of it is believed."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.count = nn.Conv2d(4, 4, 1), nn.ReLU(), 0

    def forward(self, x):
        for _ in range(int(x.size(0))):
            x = self.act(self.conv(x)) * torch.rand(())
        return x


MODELS = {
    "small": small,
    "residual": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), Residual(), nn.Conv2d(4, 4, 1)),
    "frozen": lambda: small().requires_grad_(False),
    "evaluated": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), Residual(), nn.ReLU()).eval(),
    "double": lambda: small().double(),
    "views": lambda: nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(2), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 2)
    ),
    "lossy": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), Loops(), nn.Conv2d(4, 2, 1)),
}


@pytest.mark.filterwarnings("ignore:fxpass")
@pytest.mark.parametrize("name", MODELS)
def test_rows_add_up(name):
    model = MODELS[name]()
    x = images(dtype=next(model.parameters()).dtype, requires_grad=name == "frozen")
    profile = fxpass.profile(fxpass.compile(model), x)
    assert_adds_up(profile)
    assert_adds_up(profile.eager)
    assert profile.saved_bytes < profile.eager.saved_bytes or name == "lossy"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_rows_of_real_networks_add_up(name):
    profile = fxpass.profile(fxpass.compile(_models.make(name)), torch.randn(1, 3, 64, 64))
    assert_adds_up(profile)
    assert_adds_up(profile.eager)
    assert {row.module for row in profile.edges} <= {
        path for path, _ in _models.make(name).named_modules()
    }


@pytest.mark.filterwarnings("ignore:fxpass")
def test_what_a_forward_that_is_not_traced_keeps_is_its_modules():
    profile = fxpass.profile(fxpass.compile(MODELS["lossy"]()), images())
    own = [row for row in profile.edges if row.op == "Loops"]
    assert [(row.module, row.shape) for row in own if row.shape == ()] == [("2", ())] * 2
    relu = next(row for row in profile.edges if row.module == "2.act")
    assert relu.savers == ("ReluBackward0 2.act",)


@pytest.mark.filterwarnings("ignore:fxpass")
def test_what_no_row_explains_is_said():
    class Hoards(nn.Module):
        def forward(self, x):
            self.__dict__["hoard"] = x.detach() * 2
            return torch.relu(x)

    x = images(requires_grad=True)
    model = nn.Sequential(Hoards())
    for module in (model, fxpass.compile(model)):
        profile = fxpass.profile(module, x)
        assert profile.not_attributed_bytes == IMAGE
        assert profile.saved_bytes == 2 * IMAGE


def test_the_bytes_are_those_of_a_step():
    model, x = MODELS["residual"](), images()
    for module in (model, fxpass.compile(model)):
        profile = fxpass.profile(module, x, loss_fn=lambda y: y.square().mean())
        module(x)  # traces
        for p in model.parameters():
            p.grad = None
        torch.manual_seed(0)
        with fxpass.memory.track() as memory:
            output = module(x)
            saved = memory.live_bytes
            loss = output.square().mean()
            del output
            loss.backward()
            del loss
        for p in model.parameters():
            p.grad = None
        assert profile.saved_bytes == pytest.approx(saved, rel=0.02)  # of dropout's bits
        assert profile.peak_bytes == pytest.approx(memory.peak_bytes, rel=0.02)
        assert 0 < profile.seconds < 5


# ---- the timeline ------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [None, torch.optim.Adam])
def test_the_timeline_tells_the_bytes_apart(optimizer):
    model = small()
    profile = fxpass.profile(model, images(), optimizer=optimizer)
    parameters = sum(p.nbytes for p in model.parameters())
    line = profile.timeline
    series = line.bytes
    assert set(series["parameters"]) == {parameters}
    assert series["gradients"][-1] == parameters
    state = series["optimizer state"][-1]
    assert state == 0 if optimizer is None else 2 * parameters < state < 2.1 * parameters
    assert series["saved"][-1] == series["transient"][-1] == 0
    assert max(series["saved"]) == profile.saved_bytes
    at = next(i for i, s in enumerate(line.seconds) if s > line.forward_seconds)
    assert series["saved"][at - 1] == profile.saved_bytes
    assert series["transient"][at - 1] == series["gradients"][at - 1] == 0
    live = [sum(series[c][i] for c in series) - parameters for i in range(len(line.seconds))]
    assert min(live) >= 0
    if optimizer is None:
        assert max(live) == profile.peak_bytes
    assert list(line.seconds) == sorted(line.seconds)


# ---- nothing is left behind ---------------------------------------------------------------------


def test_all_is_left_as_it_was_found():
    model = nn.Sequential(MODELS["residual"](), nn.BatchNorm2d(4))
    compiled, x = fxpass.compile(model), images(requires_grad=True)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before = copy.deepcopy(model.state_dict())
    rng = torch.get_rng_state()
    fxpass.profile(compiled, x, optimizer=torch.optim.SGD)
    for name, value in model.state_dict().items():
        assert torch.equal(bits(value), bits(before[name])), name
    assert torch.equal(torch.get_rng_state(), rng)
    assert [p.grad is not None for p in model.parameters()][:2] == [True, False]
    assert x.grad is None
    assert model.training
    with fxpass.memory.track(timeline=True) as memory:
        torch.empty(4)
    assert {event.part for event in memory.timeline()} == {0}


def test_the_source_of_a_watched_program_is_gone_at_once():
    def sources():
        return [name for name in linecache.cache if name.startswith("<fxpass ")]

    compiled, x = fxpass.compile(small()), images()
    fxpass.profile(compiled, x)
    gc.collect()
    program = compiled._fxpass_unit.latest().program
    watcher = Watcher(compiled.original, fxpass.memory.track(timeline=True))
    before = sources()
    gc.disable()
    try:
        program._watched(watcher)
        assert sources() == before
    finally:
        gc.enable()


def test_under_no_grad_it_is_the_same():
    model, x = small(), images()
    with torch.no_grad():
        found = fxpass.profile(model, x)
        assert not torch.is_grad_enabled()
    assert found.saved_bytes == fxpass.profile(model, x).saved_bytes > 0


def test_bad_input():
    with pytest.raises(TypeError, match=r"expected model to be an nn\.Module, got builtins\.int"):
        fxpass.profile(3, images())
    with pytest.raises(ValueError, match=r"'weight' uninitialized: call the model"):
        fxpass.profile(nn.LazyLinear(3), images())
    with pytest.raises(ValueError, match="rows to be at least 0, got -1"):
        fxpass.profile(small(), images()).table(-1)
    with pytest.raises(RuntimeError, match="channels"):
        fxpass.profile(small(), images(channels=3))


# ---- the table ---------------------------------------------------------------------------------


def test_the_table(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    profile = fxpass.profile(fxpass.compile(small()), images())
    text = profile.table()
    assert "fxpass / eager" in text
    assert "MaxPool2DWithIndices 4" in text
    assert "Backward" not in text
    assert "not attributed" in text.splitlines()[-2]
    for row in profile.edges:
        assert row.op in text
    short = profile.table(rows=2)
    assert "3 more" in short
    eager = profile.eager.table()
    assert "recipe" not in eager
    assert "fxpass" not in eager
    assert "saved tensors" not in profile.table(rows=0)
