"""The options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from fxpass.budget import PLANNERS

Model = Annotated[
    str,
    typer.Argument(
        help="package.module:callable or file.py:callable; called without arguments it gives the "
        "model. Example: torchvision.models:resnet18",
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Images in a batch.")]
Image = Annotated[
    str, typer.Option(help="Size of an image: 224, 224x160 (height x width) or 1x28x28.")
]
DType = Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")]
ChannelsLast = Annotated[
    bool, typer.Option("--channels-last", help="Memory format of model and images.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch.", show_default="all")]
Train = Annotated[bool, typer.Option("--train/--eval", help="Training or evaluation mode.")]
Budget = Annotated[
    str | None,
    typer.Option(
        "--memory-budget",
        help="The most that a step may have live: bytes, 300MB, 1.5GiB, or a fraction of eager's "
        "peak with a point in it, 0.5.",
        show_default="none",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show the traceback.")]
Planner = Annotated[
    str,
    typer.Option(
        help=f"How a plan for the budget is found: {', '.join(PLANNERS)} (docs/budget.md)."
    ),
]
