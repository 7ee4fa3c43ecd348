"""What `fxpass-train` promises.

    python -m bench.deploy
    python -m bench.deploy --json figures.json

Losses and weights of 20 steps, eager, fxpass, TorchScript and fxpass-train, to the last bit; the
program's peak bytes against fxpass in Python; its peak resident set against that of the same
training in eager Python, as a whole and above what each held before the model was loaded; and
whether training goes on from a whole checkpoint after SIGKILL. Exits with 1 if a promised figure is
missed.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from bench import _trainings
from bench._promise import Figure, parser_of, show
from bench._trainings import OPTIMIZERS, PROGRAM, Setting

MODELS = ("vgg_style", "resnet18", "mobilenet_v2")
STEPS = 20
KILLS = 20
RUNS = 5


def exactness_and_peak(name: str, optimizer: str, folder: Path) -> Iterator[Figure]:
    """Differences from eager in each way, and peak bytes of the program against Python's."""
    setting = Setting.of(name, folder, batch=8, steps=STEPS, optimizer=optimizer)
    eager = _trainings.python_way(setting, "eager")
    compiled = _trainings.python_way(setting, "fxpass")
    scripted = _trainings.python_way(setting, "TorchScript")
    trained, _ = _trainings.program(setting)
    after, _ = _trainings.program(setting, "--step-after-backward")
    what = f"{name}, {optimizer}"
    differing = {
        "fxpass": compiled,
        "TorchScript": scripted,
        "fxpass-train": trained,
        "fxpass-train --step-after-backward": after,
    }
    for way, training in differing.items():
        count = eager.differences(training)
        yield Figure(f"{what}: losses and tensors that differ, {way}", count, 0, "")
    for way, training in (("", trained), (" --step-after-backward", after)):
        ratio = training.peak_bytes / compiled.peak_bytes
        yield Figure(f"{what}: peak bytes, fxpass-train{way} / Python", ratio, 1.02, "")


def resident(folder: Path) -> Iterator[Figure]:
    """The memory of the two processes, resnet18, batches of 32; the median of each one's runs."""
    setting = Setting.of("resnet18", folder, batch=32, steps=STEPS, optimizer="SGD")
    arguments = ["resnet18", setting.data, 32, STEPS, torch.get_num_threads()]
    words = [str(word) for word in (sys.executable, "-m", "bench._eager_training", *arguments)]
    whole, before = "peak_resident_bytes", "resident_bytes_before_model"
    runs: dict[str, list[dict[str, int]]] = {"eager": [], "ours": []}
    for _ in range(RUNS):
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
        runs["eager"].append(json.loads(done.stdout))
        runs["ours"].append(_trainings.program(setting)[1][-1])
    middle = {
        side: sorted(found, key=lambda run: run[whole] - run[before])[RUNS // 2]
        for side, found in runs.items()
    }
    eager, ours = middle["eager"], middle["ours"]
    mib = {side: found[whole] >> 20 for side, found in (("ours", ours), ("eager", eager))}
    yield Figure(
        f"resnet18, batch 32: resident at most, of {mib['ours']} and {mib['eager']} MiB",
        ours[whole] / eager[whole],
        0.65,
        "",
    )
    above = {
        side: found[whole] - found[before] for side, found in (("ours", ours), ("eager", eager))
    }
    yield Figure(
        "resnet18, batch 32: the same above what was held before the model,"
        f" of {above['ours'] >> 20} and {above['eager'] >> 20} MiB",
        above["ours"] / above["eager"],
        0.65,
        "",
    )


def killed(folder: Path) -> Figure:
    """How often training did not go on, to the same bits, after SIGKILL at a random moment."""
    steps = 400
    setting = Setting.of("vgg_style", folder, batch=2, steps=steps, optimizer="SGD")
    expected = _trainings.program(setting)[0]
    checkpoint = folder / "last.checkpoint"
    saving = ["--checkpoint", checkpoint, "--checkpoint-every", 1, "--resume"]
    moments = random.Random(0)
    failures, begun = 0, 0
    for _ in range(KILLS):
        with subprocess.Popen(
            _trainings.command(setting, *saving), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            first = process.stdout.readline()  # it has begun, or gone on
            resumed = json.loads(first).get("note", "").startswith("going on") if first else False
            failures += begun > 0 and not resumed
            begun += 1
            time.sleep(moments.uniform(0.05, 0.35))
            process.send_signal(signal.SIGKILL)
    last, _ = _trainings.program(setting, *saving)
    count = len(last.losses)  # none: it was done before the last kill, which then proves nothing
    same = count > 0 and last.losses == expected.losses[steps - count :]
    expected.losses = last.losses = []
    failures += not same or expected.differences(last) > 0
    return Figure(f"of {KILLS} kills while saving: not resumed exactly", failures, 0, "")


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, and says with the exit code whether all is as promised."""
    parser = parser_of("deploy", __doc__)
    options = parser.parse_args(arguments)
    if not PROGRAM.exists():
        parser.error(
            f"{PROGRAM} is not there: install libcli11-dev and nlohmann-json3-dev, rebuild"
        )
    warnings.filterwarnings("ignore", message=".*torch.jit.*is deprecated")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        figures = [*resident(place), killed(place)]
        for name in MODELS:
            for optimizer in OPTIMIZERS:
                figures += exactness_and_peak(name, optimizer, place)
    return show("What fxpass-train promises", figures, options.json)


if __name__ == "__main__":
    sys.exit(main())
