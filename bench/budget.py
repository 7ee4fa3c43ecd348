"""What a memory budget promises: peaks known beforehand, time, and less of both than its peers.

    python -m bench.budget
    python -m bench.budget resnet50 mobilenet_v2 --what budgets,shares --pairs 4 --json figures.json

budgets: for each model five of them, from eager's peak down to the smallest peak found: predicted
against measured peak, predicted against measured time ratio, seconds of planning. shares: the time
of the fastest plan that saves at most 0.25, and 0.10, of eager's bytes. peers: torch.compile with a
memory budget and checkpoint_sequential (bench/_budget_peers.py). Each model is measured in NCHW if
nothing else is said. Prints tables as they are done; exits with 1 if a promised figure is missed.
"""

from __future__ import annotations

import argparse
import sys

import torch

from bench import _budget_peers, _budget_points
from bench._budget_steps import scene
from bench._promise import Figure, parser_of, show
from fxpass._console import table_console
from fxpass._progress import progress
from fxpass.budget import Planner

MODELS = (
    *("alexnet", "vgg16", "squeezenet1_1", "resnet18", "resnet50"),
    *("densenet121", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "shufflenet_v2_x1_0"),
)
SHARED = ("resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "vgg16")
WHAT = {"budgets": MODELS, "shares": SHARED, "peers": _budget_peers.MODELS}
"""What is measured, and of which models."""


def figures(options: argparse.Namespace) -> list[Figure]:
    """Measures, and prints a table for each model and part."""
    found: list[Figure] = []
    duels: list[_budget_peers.Duel] = []
    chosen = [(part, name) for part in options.what for name in options.models or WHAT[part]]
    with progress(len(chosen)) as begin:
        for part, name in chosen:
            begin(f"{part}: {name}")
            if part == "peers":
                won = list(_budget_peers.duels(name, options.batch, options.image, options.pairs))
                table_console().print(_budget_peers.table(name, won))
                duels += won
                continue
            ground = scene(name, options.batch, options.image, options.format, options.pairs)
            planner = Planner(ground.model, (ground.images,))
            points = list(_PARTS[part](ground, planner))
            table_console().print(_budget_points.table(name, points))
            found += _FIGURES[part](name, points)
    return [*found, *([_budget_peers.figure_of(duels)] if duels else [])]


_PARTS = {"budgets": _budget_points.budget_points, "shares": _budget_points.share_points}
_FIGURES = {
    "budgets": _budget_points.figures_of_budgets,
    "shares": _budget_points.figures_of_shares,
}


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, and says with the exit code whether all is as promised."""
    parser = parser_of("budget", __doc__)
    parser.add_argument("models", nargs="*", help="torchvision's names; default: as promised")
    parser.add_argument("--what", type=_what, default=list(WHAT), help="budgets,shares,peers")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--format", choices=("nchw", "channels_last"), default="nchw")
    parser.add_argument("--pairs", type=int, help="paired runs of a time ratio; even")
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)
    return show("What a memory budget promises", figures(options), options.json)


def _what(text: str) -> list[str]:
    parts = text.split(",")
    if not set(parts) <= set(WHAT):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(WHAT)}, got {text}")
    return parts


if __name__ == "__main__":
    sys.exit(main())
