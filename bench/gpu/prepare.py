"""Collect what a machine with a GPU but without a network lacks, in loads of a limited size.

    python -m bench.gpu.prepare --out carried --there there.txt --limit 64

``there.txt`` names the packages that the machine has, one a line, as ``pip list --format=freeze``
prints them there. All else that the benchmarks want is downloaded for that machine's Python and
compressed better; libraries keep the code for its GPU only. Each folder ``carried/load-<n>`` fits
under the limit together with the repository; ``python -m bench.gpu.run --wheels carried/load-*``
installs them there. A wheel that is too large for one load is cut into pieces, which are joined
then.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.gpu.wheels import repack, split

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1 << 20
EXTRAS = ("embedded", "ingest", "preprocess", "postprocess", "gpu")
BESIDES = ("pytest", "pytest-asyncio", "hypothesis", "testcontainers")
"""What the tests of GPUs want."""
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
WITHOUT = (
    "onnxruntime/capi/libonnxruntime.so.*",  # for programs in C
    "onnxruntime/capi/*_tensorrt.so",  # where there is no TensorRT
    "onnxruntime/tools/*",
    "onnxruntime/transformers/*",
)


@dataclass(frozen=True)
class Target:
    """The machine."""

    python: str
    sm: int

    @property
    def options(self) -> list[str]:
        """Of pip, so that it takes wheels for that machine."""
        platforms = [f"--platform={platform}" for platform in PLATFORMS]
        return ["--only-binary=:all:", f"--python-version={self.python}", *platforms]


def canonical(name: str) -> str:
    """Return a package's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def there(lines: Iterable[str]) -> frozenset[str]:
    """Return the names in what ``pip list --format=freeze`` printed."""
    names = (re.split(r"[=<>@ ]", line.strip(), maxsplit=1)[0] for line in lines)
    return frozenset(canonical(name) for name in names if name)


def wanted(target: Target) -> list[str]:
    """Return ``name==version`` of all that the extras need on that machine, as pip resolves it."""
    project = f"{ROOT}[{','.join(EXTRAS)}]"
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        _pip(
            "install", "--dry-run", "--ignore-installed", f"--report={report}",
            f"--target={scratch}/site", f"--constraint={ROOT / 'constraints.txt'}",
            *target.options, project, *BESIDES,
        )  # fmt: skip
        found = json.loads(report.read_text())["install"]
    metadata = [one["metadata"] for one in found if "dir_info" not in one["download_info"]]
    return [f"{one['name']}=={one['version']}" for one in metadata]


def lacking(names: Sequence[str], present: frozenset[str]) -> list[str]:
    """Return those of ``name==version`` that are to be carried."""
    return [name for name in names if canonical(name.partition("==")[0]) not in present]


def loads(files: Iterable[Path], room: int) -> list[list[Path]]:
    """Share files out among loads of ``room`` bytes, the smallest first.

    So nearly all packages are in the first load, and what needs no others can run with it.
    """
    found: list[list[Path]] = []
    left = 0
    for file in sorted(files, key=lambda file: file.stat().st_size):
        nbytes = file.stat().st_size
        if not found or nbytes > left:
            found.append([])
            left = room
        found[-1].append(file)
        left -= nbytes
    return found


def repository_bytes() -> int:
    """Return how large the files are that travel anyway."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    files = [ROOT / name.decode() for name in names if name]
    return sum(file.stat().st_size for file in files if file.is_file())


def download(names: Sequence[str], target: Target, folder: Path) -> list[Path]:
    """Fetch wheels, each for itself, and make them small; return them."""
    folder.mkdir(parents=True)
    made = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            _pip("download", "--no-deps", f"--dest={scratch}", *target.options, name)
        for wheel in sorted(Path(scratch).glob("*.whl")):
            before = wheel.stat().st_size
            after = repack(wheel, folder / wheel.name, sm=target.sm, without=WITHOUT)
            made.append(folder / wheel.name)
            print(f"{wheel.name:<80}{before / MEBIBYTE:>8.1f}{after / MEBIBYTE:>8.1f} MiB")
    return made


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--there", type=Path, help="names of packages that need not be carried")
    parser.add_argument("--limit", type=int, default=64, help="MiB, repository included")
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--sm", type=int, default=90, help="architecture of the GPU")
    arguments = parser.parse_args()
    target = Target(arguments.python, arguments.sm)
    present = there(arguments.there.read_text().splitlines()) if arguments.there else frozenset()
    repository = repository_bytes()
    room = arguments.limit * MEBIBYTE - repository
    wheels = download(lacking(wanted(target), present), target, arguments.out / "wheels")
    pieces = [
        piece
        for wheel in wheels
        for piece in ([wheel] if wheel.stat().st_size <= room else split(wheel, room))
    ]
    for number, load in enumerate(loads(pieces, room), 1):
        folder = arguments.out / f"load-{number}"
        folder.mkdir()
        nbytes = sum(file.stat().st_size for file in load) + repository
        for file in load:
            file.rename(folder / file.name)
        print(f"{folder}: {nbytes / MEBIBYTE:.1f} MiB with the repository")
    (arguments.out / "wheels").rmdir()


if __name__ == "__main__":
    main()
