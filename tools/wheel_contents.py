"""Says what is missing from a wheel, or should not be in it."""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WANTED = [
    r"fxpass/__init__\.py",
    r"fxpass/_built_for\.py",
    r"fxpass/_C\.cpython-.*\.so",
    r"fxpass/libfxpass_ops\.so",
    r"fxpass/py\.typed",
    r"fxpass/inspect/report\.html\.jinja",
    r"fxpass/share/cmake/fxpass/fxpassConfig\.cmake",
    r"fxpass-.*\.data/scripts/fxpass-train",
    r"fxpass-.*\.dist-info/entry_points\.txt",
    r"fxpass-.*\.dist-info/licenses/LICENSE",
]
# Everything else comes with torch or with every Linux.
LINKS = re.compile(
    r"lib(fxpass_ops|torch|torch_cpu|c10|gomp|stdc\+\+|gcc_s|m|c|dl|pthread)\.so|ld-linux-"
)
RUN_PATH = re.compile(r"\$ORIGIN(/|$)")


def wrong_links(name: str, binary: Path) -> list[str]:
    """What a library or program is linked to, or searches, that it should not."""
    found = []
    dynamic = subprocess.run(["readelf", "-dW", binary], capture_output=True, text=True, check=True)
    for kind, value in re.findall(r"\((NEEDED|RUNPATH|RPATH)\).*\[(.*)\]", dynamic.stdout):
        if kind == "NEEDED" and not LINKS.match(value):
            found.append(f"{name} links to {value}")
        if kind != "NEEDED" and not all(RUN_PATH.match(path) for path in value.split(":")):
            found.append(f"{name} searches {value}")
    return found


def problems(wheel: Path) -> list[str]:
    """A line each."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        found = [f"no {w}" for w in WANTED if not any(re.fullmatch(w, name) for name in names)]
        found += [f"{n} is there" for n in names if not re.match(r"fxpass(/|-[\d.]+\.)", n)]
        found += [f"{n} is there" for n in names if re.search(r"\.(cpp|o|a|pyc)$", n)]
        if not re.search(r"-cp3\d+-cp3\d+-(linux|manylinux.*)_(x86_64|aarch64)\.whl$", wheel.name):
            found.append("no tag of one Python and one kind of processor in its name")
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                if name.endswith(".so") or "/scripts/" in name:
                    found += wrong_links(name, Path(archive.extract(name, folder)))
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    sys.exit("\n".join(lines) or 0)
