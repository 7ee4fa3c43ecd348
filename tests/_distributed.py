"""Two processes that train one model, with gloo: what each kind of compiling makes of it.

`run_in_two(names, folder)` starts them once for all the cases named, and returns for each what went
wrong, empty if nothing did: a case trains a model that eager trains too, and compares every bit.
"""

from __future__ import annotations

import json
import os
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _twins import assert_same, bits, is_compiled
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import fxpass

PROCESSES, STEPS = 2, 3


class Net(nn.Module):
    """Buffers, dropout, and weights of all kinds."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, width, 3, padding=1)
        self.bn, self.drop = nn.BatchNorm2d(8), nn.Dropout(0.3)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.b(F.relu(self.bn(self.a(x))))), 2)
        x = self.drop(x).mean((2, 3))
        return self.head(x)


class Unused(Net):
    """Has a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 4)


class Wide(Net):
    """Gradients for more than one of DistributedDataParallel's buckets."""

    def __init__(self) -> None:
        super().__init__(width=4096)


def sharded(model: nn.Module, parts: tuple[str, ...] = (), **how: Any) -> nn.Module:
    """FSDP2: the model, and before it some of its modules, sharded in place."""
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for part in parts:
        fully_shard(model.get_submodule(part), mesh=mesh, **how)
    return fully_shard(model, mesh=mesh, **how)


def in_parts(model: nn.Module) -> nn.Module:
    return sharded(model, ("a", "b", "head"))


def of_the_first_kind(model: nn.Module) -> nn.Module:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def by_dynamo(model: nn.Module) -> Any:
    return torch.compile(model, backend="fxpass")


Wrap = Callable[[Any], Any]


@dataclass
class Case:
    """A model, what makes it parallel, and what compiles it, in one order or the other."""

    wrap: Wrap = DistributedDataParallel
    compile: Wrap = fxpass.compile
    first: bool = True  # compiled first, or wrapped first
    make: Callable[[], Net] = Net
    how: dict[str, Any] = field(default_factory=dict)
    accumulate: bool = False

    def eager(self) -> nn.Module:
        return self.wrap(self.fresh(), **self.how)

    def compiled(self) -> nn.Module:
        if self.first:
            return self.wrap(self.compile(self.fresh()), **self.how)
        return self.compile(self.wrap(self.fresh(), **self.how))

    def fresh(self) -> Net:
        torch.manual_seed(0)
        return self.make()


def _both_orders(name: str, **case: Any) -> dict[str, Case]:
    return {
        f"{name}: {'wrap(compile)' if first else 'compile(wrap)'}": Case(first=first, **case)
        for first in (True, False)
    }


UNUSED = {"find_unused_parameters": True}
CASES: dict[str, Case] = {
    **_both_orders("DDP"),
    **_both_orders("DDP, accumulating", accumulate=True),
    **_both_orders("DDP, unused parameters", make=Unused, how=UNUSED),
    **_both_orders("DDP, views of buckets", how={"gradient_as_bucket_view": True}),
    **_both_orders("DDP, static graph", how={"static_graph": True}),
    **_both_orders("DDP, torch.compile", compile=by_dynamo, make=Wide, accumulate=True),
    **_both_orders("FSDP2", wrap=sharded),
    **_both_orders("FSDP2, in parts", wrap=in_parts),
    **_both_orders("FSDP2, not sharded again", wrap=sharded, how={"reshard_after_forward": False}),
    **_both_orders("FSDP2, torch.compile", wrap=in_parts, compile=by_dynamo),
    **_both_orders("FSDP1", wrap=of_the_first_kind),
}


def run_in_two(names: list[str], folder: Path) -> dict[str, list[str]]:
    """What went wrong in each process, by case."""
    multiprocessing.spawn(_work, (names, str(folder)), nprocs=PROCESSES)
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(PROCESSES)]
    return {name: [part[name] for part in found] for name in names}


def _work(rank: int, names: list[str], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = distributed.FileStore(f"{folder}/store", PROCESSES)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    found = {}
    for name in names:
        torch.compiler.reset()
        try:
            _compare(CASES[name])
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    Path(f"{folder}/{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    # torch joins gloo's thread with the GIL held, which that thread needs to end its last work.
    time.sleep(0.2)
    distributed.destroy_process_group()


def _compare(case: Case) -> None:
    eager = train(case.eager(), case.accumulate)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "fxpass")
        compiled = case.compiled()
        ours = train(compiled, case.accumulate)
        assert is_compiled(compiled(torch.randn(2, 3, 8, 8))), "nothing is compiled"
    assert_same(eager, ours)


def train(model: nn.Module, accumulate: bool) -> list[tuple[str, Any]]:
    """All there is after each step: the loss, gradients, parameters and buffers."""
    generator = torch.Generator().manual_seed(distributed.get_rank())
    torch.manual_seed(distributed.get_rank())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen: list[tuple[str, Any]] = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for last in (False, True) if accumulate else (True,):
            x = torch.randn(4, 3, 8, 8, generator=generator)
            labels = torch.randint(4, (4,), generator=generator)
            with nullcontext() if last else _module(model).no_sync():
                loss = F.cross_entropy(model(x), labels)
                loss.backward()
        gradients = [_local(p.grad) for p in model.parameters()]
        optimizer.step()
        state = [_local(t) for t in [*model.parameters(), *model.buffers()]]
        seen += [(f"step {step} {n}", v) for n, v in bits([loss, gradients, state])]
    return seen


def _module(model: Any) -> Any:
    """What Dynamo wraps, if it does."""
    return getattr(model, "_orig_mod", model)


def _local(tensor: Tensor | None) -> Tensor | None:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
