"""All benchmarks of GPUs, one after the other: build, check, time.

    python -m bench.gpu.run --out results

Each step is a process with a limit of time; one that fails or takes too long is told, and the next
goes on. With ``--within 570`` all end in so many seconds, and steps for which none are left are
told, too: ``--only`` runs them later. ``results`` then holds ``figures.jsonl``, a line for each
figure, ``table.md`` for docs/benchmarks.md, and ``log.txt`` with all that was printed. Packages
that were carried along are installed from ``--wheels`` below ``--prefix`` first; what an earlier
run has installed there is used, too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from types import MappingProxyType

from bench.gpu.figures import Figure, table
from bench.gpu.wheels import install, site_of

ROOT = Path(__file__).parents[2]
_GRACE = 10
"""Seconds that a step has to end after its limit."""
_LAST_LINES = 40
_LEAST = 1
"""Seconds that a step must have."""
_ASKS_FOR_DEVICE = re.compile(r"\bgpu(_device)?: ")


@dataclass(frozen=True)
class Step:
    """What to run, and for how many seconds at most."""

    command: tuple[str, ...]
    limit: int


def _module(name: str, limit: int, *arguments: str) -> Step:
    return Step(("-m", f"bench.gpu.{name}", *arguments), limit)


def _tests() -> Step:
    """Those files only that have tests of GPUs: what others import may not be there."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    asking = [str(file) for file in files if _ASKS_FOR_DEVICE.search(file.read_text())]
    return Step(("-m", "pytest", "-q", "-m", "gpu", *asking), 240)


STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "machine": _module("machine", 60),
        "kernels": Step(("-m", "pytest", "-q", "tests/visionmesh/gpu"), 120),
        "tests": _tests(),
        "preprocess": _module("preprocess", 60),
        "handover": _module("handover", 60),
        "boxes": _module("boxes", 120),
        **{
            f"engines-{network}": _module("engines", 180, "--networks", network)
            for network in ("resnet50", "yolov8s", "vit-b16")
        },
        "overlap": _module("overlap", 180),
        **{
            f"mesh-{engine}": _module("mesh", 200, "--engines", engine)
            for engine in ("onnxruntime", "torch")
        },
        "kills": _module("kills", 240),
    }
)
"""In the order in which they are run: what the later ones rest on comes first. Each is small, as an
engine that crashes takes its process with it."""


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    step: str
    status: str
    seconds: float
    figures: tuple[Figure, ...]
    skipped: tuple[str, ...]
    end: str
    """The last lines that were printed."""

    @classmethod
    def of(cls, step: str, status: str, seconds: float, printed: str) -> Outcome:
        """Read what a step printed."""
        figures, skipped = [], []
        for line in printed.splitlines():
            if line.startswith('{"what"'):
                figures.append(Figure(**json.loads(line)))
            elif line.startswith('{"skipped"'):
                found = json.loads(line)
                skipped.append(f"{found['skipped']}: {found['why']}")
        end = "\n".join(printed.splitlines()[-_LAST_LINES:])
        return cls(step, status, seconds, tuple(figures), tuple(skipped), end)


def environment(device: str, site: Path) -> dict[str, str]:
    """Return the variables of the steps; packages in ``site``, if it is there, come first."""
    # ONNX Runtime and nvImageCodec look for CUDA beside themselves, and else as any program does.
    folders = [site, *map(Path, sys.path)]
    libraries = [lib for folder in folders for lib in sorted(folder.glob("nvidia/*/lib"))]
    return {
        **os.environ,
        "PYTHONPATH": _path("PYTHONPATH", ROOT / "libs", ROOT, site),
        "LD_LIBRARY_PATH": _path("LD_LIBRARY_PATH", *libraries),
        "PYTHONUNBUFFERED": "1",
        # Versions of packages differ from machine to machine, and with them what they warn of.
        "PYTEST_ADDOPTS": "-W default -p no:cacheprovider",
        "VISIONMESH_TEST_DEVICE": device,
    }


def _path(name: str, *first: Path) -> str:
    """Return the variable ``name`` with some folders before what it names already."""
    return os.pathsep.join(filter(None, (*map(str, first), os.environ.get(name))))


class Runner:
    """Runs steps; all that they print goes to the end of ``log`` as it is printed."""

    def __init__(self, *, log: Path, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        self._log = log
        self._arguments = arguments
        self._env = env

    def run(self, name: str, step: Step, *, left: int) -> Outcome:
        """Run a step; end it and all that it started when its time is up, or there is none left."""
        limit = min(step.limit, left)
        if limit < _LEAST:
            return Outcome.of(name, f"not begun, as {left} s were left", 0.0, "")
        benchmark = step.command[1].startswith("bench.")
        command = [sys.executable, *step.command, *(self._arguments if benchmark else ())]
        began = time.monotonic()
        with self._log.open("a+") as log:
            log.write(f"\n=== {name}\n")
            log.flush()
            before = log.tell()
            process = subprocess.Popen(
                command, cwd=ROOT, env=dict(self._env), start_new_session=True,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                status = process.wait(limit)
                told = "ok" if status == 0 else f"failed ({status})"
            except subprocess.TimeoutExpired:
                _end(process)
                told = f"not finished after {limit} s"
            log.seek(before)
            return Outcome.of(name, told, time.monotonic() - began, log.read())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process whose time is up, with all that it started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def write(outcomes: Sequence[Outcome], out: Path) -> None:
    """Write what is known so far: the machine may be taken away at any time."""
    figures = [figure for outcome in outcomes for figure in outcome.figures]
    (out / "table.md").write_text(
        f"Measured on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}.\n\n{table(figures)}\n"
        + "".join(f"- {one.step}: {one.status}, {one.seconds:.0f} s\n" for one in outcomes)
        + "".join(f"- not measured: {why}\n" for one in outcomes for why in one.skipped)
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder for the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a dry run")
    parser.add_argument("--only", default=",".join(STEPS), help="steps, with commas between")
    parser.add_argument("--wheels", type=Path, nargs="*", default=[], help="folders of wheels")
    parser.add_argument("--prefix", type=Path, default=Path(gettempdir()) / "visionmesh-carried")
    parser.add_argument("--within", type=float, default=3600.0, help="seconds for all steps")
    told = parser.parse_args()
    began = time.monotonic()
    told.out.mkdir(parents=True, exist_ok=True)
    arguments = ["--device", told.device, *(["--tiny"] if told.tiny else [])]
    outcomes: list[Outcome] = []
    if told.wheels:
        install(told.wheels, told.prefix.absolute())
    env = environment(told.device, site_of(told.prefix.absolute()))
    runner = Runner(log=told.out / "log.txt", arguments=arguments, env=env)
    with (told.out / "figures.jsonl").open("w") as lines:
        for name in told.only.split(","):
            left = int(told.within - (time.monotonic() - began))
            outcome = runner.run(name, STEPS[name], left=left)
            print(f"=== {name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
            if outcome.status != "ok":
                print(outcome.end, flush=True)
            outcomes.append(outcome)
            for figure in outcome.figures:
                lines.write(json.dumps({"step": name, **vars(figure)}) + "\n")
            lines.flush()
            write(outcomes, told.out)
    print(f"\n{(told.out / 'table.md').read_text()}")
    return int(any(outcome.status != "ok" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
