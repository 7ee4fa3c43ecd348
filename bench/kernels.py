"""The kernels against memcpy: pack, unpack, mask, select, codes and pools, on one thread.

    python -m bench.kernels                      the promised figures, then a table of all targets
    python -m bench.kernels --figures            the promised figures alone
    python -m bench.kernels --targets avx2 --ops pack,unpack --dtypes float32 --densities 0.5

A speed is the bytes of the dense side a second, over memcpy's for a buffer of that size. All memory
was touched before. The promised figures are taken at 128 MiB. Exits with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import fxpass._kernels as _kernels
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from bench._timing import Step, paired_ratio
from fxpass._console import table_console

MIB = 2**20
FIGURE_MIB = 128
DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
LIMITS = {"avx512": 1.2, "avx2": 0.9}  # of pack and unpack: float32, density 0.5
CODE_WIDTH = 3  # what a 2x2 pool after a ReLU needs
DTYPES = {
    torch.float32: _kernels.DType.F32,
    torch.float64: _kernels.DType.F64,
    torch.bfloat16: _kernels.DType.BF16,
    torch.float16: _kernels.DType.F16,
}


@dataclass(frozen=True)
class Case:
    """One row: an operation of one target on one kind of data."""

    op: str
    target: str
    dtype: torch.dtype
    density: float | None  # None where it does not matter
    mib: int
    limit: float | None = None


@dataclass(frozen=True)
class Result:
    """What a row measured; `speed` is relative to memcpy."""

    op: str
    target: str
    dtype: str
    density: float | None
    mib: int
    speed: float
    gb_per_second: float
    memcpy_gb_per_second: float
    control: float
    limit: float | None

    @property
    def missed(self) -> bool:
        """Whether the row promised more than it reached."""
        return self.limit is not None and self.speed < self.limit


def dense(case: Case) -> Tensor:
    """Random numbers: positive with the case's density, else zero (bitmaps) or negative."""
    n = case.mib * MIB // case.dtype.itemsize
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, generator=generator).add_(0.5).to(case.dtype)
    if case.density is not None:
        off = torch.rand(n, generator=generator) >= case.density
        x[off] = 0 if case.op in ("pack", "unpack") else -1
    return x


def bitmap(case: Case) -> tuple[Step, Tensor]:
    """Packing a tensor, or unpacking it again."""
    k, dtype, x = _kernels.get(case.target), DTYPES[case.dtype], dense(case)
    n = x.numel()
    bits = torch.zeros((n + 63) // 64, dtype=torch.int64)
    values, back = torch.zeros_like(x), torch.zeros_like(x)

    def pack() -> object:
        return k.bitmap_pack(dtype, x.data_ptr(), n, bits.data_ptr(), values.data_ptr())

    def unpack() -> object:
        return k.bitmap_unpack(dtype, bits.data_ptr(), n, values.data_ptr(), back.data_ptr())

    pack()
    return (pack if case.op == "pack" else unpack), x


def relu(case: Case) -> tuple[Step, Tensor]:
    """ReLU with its mask, or the select of gradients by it."""
    k, dtype, x = _kernels.get(case.target), DTYPES[case.dtype], dense(case)
    n = x.numel()
    mask, y = torch.zeros((n + 63) // 64, dtype=torch.int64), torch.zeros_like(x)

    def relu_mask() -> object:
        return k.relu_mask(dtype, x.data_ptr(), y.data_ptr(), n, mask.data_ptr())

    def select() -> object:
        return k.select(dtype, x.data_ptr(), mask.data_ptr(), n, y.data_ptr())

    relu_mask()
    return (relu_mask if case.op == "mask" else select), x


def codes(case: Case) -> tuple[Step, Tensor]:
    """Codes of one byte each to bit planes, or back."""
    k = _kernels.get(case.target)
    x = torch.randint(0, 2**CODE_WIDTH - 3, (case.mib * MIB,), dtype=torch.uint8)
    n = x.numel()
    words = torch.zeros((n + 63) // 64 * CODE_WIDTH, dtype=torch.int64)
    back = torch.zeros_like(x)

    def pack() -> object:
        return k.codes_pack(x.data_ptr(), n, CODE_WIDTH, words.data_ptr())

    def unpack() -> object:
        return k.codes_unpack(words.data_ptr(), 0, n, CODE_WIDTH, back.data_ptr())

    pack()
    return (pack if case.op == "codes_pack" else unpack), x


def pool(case: Case) -> tuple[Step, Tensor]:
    """A fused ReLU -> 2x2 max pool, forward or backward, over planes or images of 64 channels."""
    k, dtype = _kernels.get(case.target), DTYPES[case.dtype]
    _, layout, direction = case.op.split("_")
    side, channels = 64, 1 if layout == "nchw" else 64
    images = case.mib * MIB // (case.dtype.itemsize * side * side * channels)
    x = torch.randn(images * side * side * channels, dtype=case.dtype)
    out, grad = torch.zeros_like(x[: x.numel() // 4]), torch.zeros_like(x)
    argmax = torch.zeros(out.numel(), dtype=torch.uint8)
    geometry = _kernels.Pool2d(
        channels=channels,
        input=[side, side],
        output=[side // 2, side // 2],
        kernel=[2, 2],
        stride=[2, 2],
        pad=[0, 0],
        dilation=[1, 1],
        fused_relu=True,
    )
    run_forward = getattr(k, f"max_pool2d_{layout}")
    run_backward = getattr(k, f"max_pool2d_{layout}_backward")

    def forward() -> object:
        return run_forward(
            dtype, geometry, x.data_ptr(), out.data_ptr(), argmax.data_ptr(), 0, out.numel()
        )

    def backward() -> object:
        return run_backward(
            dtype, geometry, out.data_ptr(), argmax.data_ptr(), grad.data_ptr(), images
        )

    forward()
    return (forward if direction == "forward" else backward), x


OPS: dict[str, Callable[[Case], tuple[Step, Tensor]]] = {
    "pack": bitmap,
    "unpack": bitmap,
    "mask": relu,
    "select": relu,
    "codes_pack": codes,
    "codes_unpack": codes,
    "pool_nchw_forward": pool,
    "pool_nchw_backward": pool,
    "pool_nhwc_forward": pool,
    "pool_nhwc_backward": pool,
}


def measure(case: Case, pairs: int | None) -> Result:
    """Times one row against memcpy of its dense side."""
    step, x = OPS[case.op](case)
    copy, size = torch.zeros_like(x), x.numel() * x.element_size()

    def memcpy() -> object:
        return ctypes.memmove(copy.data_ptr(), x.data_ptr(), size)

    ratio = paired_ratio(step, memcpy, pairs=pairs)
    return Result(
        op=case.op,
        target=case.target,
        dtype=str(x.dtype).removeprefix("torch."),
        density=case.density,
        mib=case.mib,
        speed=1 / ratio.value,
        gb_per_second=size / ratio.seconds / 1e9,
        memcpy_gb_per_second=size / ratio.reference_seconds / 1e9,
        control=ratio.control,
        limit=case.limit,
    )


def figures(targets: list[str]) -> list[Case]:
    """The rows whose speed is promised."""
    return [
        Case(op, target, torch.float32, 0.5, FIGURE_MIB, limit)
        for target, limit in LIMITS.items()
        if target in targets
        for op in ("pack", "unpack")
    ]


def cases(
    targets: list[str], ops: list[str], dtypes: list[torch.dtype], densities: list[float], mib: int
) -> list[Case]:
    """All rows of the table: what an operation does not depend on is not varied."""
    rows: dict[Case, None] = {}
    for op in ops:
        for target in targets:
            for dtype in dtypes:
                if op.startswith("pool") and dtype.itemsize == 2:
                    continue
                for density in densities:
                    of_dtype = torch.uint8 if op.startswith("codes") else dtype
                    varies = OPS[op] in (bitmap, relu)
                    rows[Case(op, target, of_dtype, density if varies else None, mib)] = None
    return list(rows)


def print_table(results: list[Result], console: Console) -> None:
    """One line a row; the promised ones say whether they were reached."""
    table = Table(title="Speed over memcpy, one thread (dense side)")
    for heading in ("op", "target", "dtype", "density", "MiB"):
        table.add_column(heading)
    for heading in ("speed", "GB/s", "memcpy", "control", "promised"):
        table.add_column(heading, justify="right")
    for r in results:
        promised = ""
        if r.limit is not None:
            promised = f">= {r.limit} " + ("[red]missed[/red]" if r.missed else "[green]ok[/green]")
        density = "" if r.density is None else f"{r.density:.1f}"
        numbers = (f"{r.speed:.2f}", f"{r.gb_per_second:.1f}", f"{r.memcpy_gb_per_second:.1f}")
        table.add_row(
            r.op, r.target, r.dtype, density, str(r.mib), *numbers, f"{r.control:.2f}", promised
        )
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    parser.add_argument("--figures", action="store_true", help="only the promised figures")
    parser.add_argument("--targets", default=",".join(_kernels.targets()))
    parser.add_argument("--ops", default=",".join(OPS))
    parser.add_argument("--dtypes", default=",".join(names))
    parser.add_argument("--densities", default=",".join(map(str, DENSITIES)))
    parser.add_argument("--mib", type=int, default=32, help="size of the table's dense sides")
    parser.add_argument("--pairs", type=int, default=21, help="pairs a row of the table")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the rows there")
    options = parser.parse_args(arguments)
    targets, ops = options.targets.split(","), options.ops.split(",")
    for what, chosen, known in (
        ("target", targets, _kernels.targets()),
        ("operation", ops, list(OPS)),
        ("dtype", options.dtypes.split(","), list(names)),
    ):
        for name in chosen:
            if name not in known:
                parser.error(f"no {what} {name!r} here; there are {', '.join(known)}")

    rows: list[tuple[Case, int | None]] = [(case, None) for case in figures(targets)]
    if not options.figures:
        dtypes = [names[name] for name in options.dtypes.split(",")]
        densities = [float(d) for d in options.densities.split(",")]
        table = cases(targets, ops, dtypes, densities, options.mib)
        rows += [(case, options.pairs) for case in table]
    console, results = table_console(), []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("kernels", total=len(rows))
        for case, pairs in rows:
            results.append(measure(case, pairs))
            progress.advance(task)
    print_table(results, console)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(r) | {"missed": r.missed} for r in results]))
    return 1 if any(r.missed for r in results) else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()  # the collection before every timed call has only our own few objects to look at
    sys.exit(main())
