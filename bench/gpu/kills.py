"""Processes that share a GPU's memory, killed with SIGKILL under load: is anything lost or wrong?

    python -m bench.gpu.kills

First writers and readers of an arena, killed at random, whose payloads tell what they must be. Then
a whole mesh: while events flow, one worker after the other is killed of the stages that write or
read the device's memory. Each event must have one result, and it must say what the same picture
was answered with before anybody was killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import uvloop

from bench.gpu import networks
from bench.gpu.figures import Figure, measuring, options
from bench.gpu.meshes import REPLICAS, device_mesh
from bench.gpu.pictures import pictures
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.local import LocalMesh

ROOT = Path(__file__).parents[2]
_SOAK = ROOT / "tests" / "visionmesh" / "tensors" / "device_soak.py"
_KILLED = ("preprocess", "infer", "postprocess")
_IN_FLIGHT = 128
_PATIENCE = 120
"""Seconds for the last results."""
_LATE = 2
"""Seconds in which a second result would come."""
_APART = 0.05
"""Between scores of one class for the same pixels, in batches of different sizes."""


@dataclass
class Seen:
    """The results of a run."""

    events: int
    results: Counter[str] = field(default_factory=Counter)
    """How many there were of each event."""
    wrong: list[str] = field(default_factory=list)
    restarts: dict[str, int] = field(default_factory=dict)
    """Of each stage whose workers were killed: one."""


def soak(device: str, *, seconds: float) -> dict[str, int]:
    """Return how often readers of an arena saw what, while they and writers were killed."""
    command = [sys.executable, str(_SOAK), device, "--seconds", str(seconds)]
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert told.stdout, f"it ended with {told.returncode}"
    found: dict[str, int] = json.loads(told.stdout.splitlines()[-1])
    return found


async def kill(running: LocalMesh, mesh: Mesh, model: str, *, events: int) -> Seen:
    """Publish events and kill workers on the way; return what came of them."""
    images = pictures(16, width=640, height=480)
    calm = [await mesh.infer(model, image) for image in images]
    assert len({_first(result) for result in calm}) > len(images) // 2, "all pictures look alike"
    seen, complete = Seen(events), asyncio.Event()

    async def listen() -> None:
        async for result in mesh.results(model, source="load"):
            seen.results[result.id] += 1
            expected = calm[int(result.id.rpartition("-")[2]) % len(calm)]
            if not _alike(result, expected):
                seen.wrong.append(result.id)
            if len(seen.results) == events:
                complete.set()

    listening = asyncio.create_task(listen())
    turns = {events * (n + 1) // (len(_KILLED) + 1): name for n, name in enumerate(_KILLED)}
    window = asyncio.Semaphore(_IN_FLIGHT)

    async def publish(number: int, image: bytes) -> None:
        async with window:
            await mesh.publish(model, image, source="load", id=f"event-{number}")
            if name := turns.get(number):
                os.kill(running.pids[name][0], signal.SIGKILL)

    published = enumerate(islice(cycle(images), events))
    await asyncio.gather(*(publish(number, image) for number, image in published))
    try:
        await asyncio.wait_for(complete.wait(), _PATIENCE)
        await asyncio.sleep(_LATE)
    except TimeoutError:
        print(f"{events - len(seen.results)} events have no result", file=sys.stderr)
    listening.cancel()
    seen.restarts = {name: running.restarts[name] for name in _KILLED}
    return seen


def _first(result: Result) -> str:
    assert result.classes, result
    return result.classes[0].label


def _alike(result: Result, expected: Result) -> bool:
    """Say whether two answers may be of the same pixels."""
    if result.status is not Status.OK or not result.classes or not expected.classes:
        return False
    scores = {one.label: one.score for one in result.classes}
    first = expected.classes[0]
    return abs(scores.get(first.label, 0) - first.score) <= _APART * first.score


async def measure(folder: Path, *, device: str, tiny: bool) -> Seen:
    replicas = dict.fromkeys(REPLICAS, 1 if tiny else 2)
    async with device_mesh(folder, device, replicas) as (running, mesh):
        return await kill(running, mesh, folder.name, events=200 if tiny else 5000)


def arena_figure(device: str, *, seconds: float) -> None:
    found = soak(device, seconds=seconds)
    told = ", ".join(f"{count} {what}" for what, count in sorted(found.items()))
    assert min(found.get("right", 0), found.get("kills", 0)) > 0, told
    Figure(
        what="payloads of killed writers, or for killed readers, believed and wrong",
        value=found.get("wrong", 0),
        at_most=0,
        note=told,
    ).tell()


def mesh_figures(device: str, *, tiny: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = networks.folder(
            Path(root), "tiny", size=640, instances=[{"device": device}], window=_IN_FLIGHT
        )
        seen = uvloop.run(measure(folder, device=device, tiny=tiny))
    restarts = ", ".join(f"{name} {count}" for name, count in seen.restarts.items())
    counts = {
        "results lost in a mesh with killed workers": seen.events - len(seen.results),
        "events answered twice": sum(count > 1 for count in seen.results.values()),
        "results that say something else than before": len(seen.wrong),
    }
    for what, count in counts.items():
        note = f"{seen.events} events; restarts: {restarts}"
        Figure(what=what, value=count, at_most=0, note=note).tell()
    assert set(seen.restarts.values()) == {1}, f"not each was killed once: {restarts}"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the arena's part")
    arguments = parser.parse_args()
    tiny, device = arguments.tiny, arguments.device
    with measuring("killed writers and readers of an arena"):
        arena_figure(device, seconds=15.0 if tiny else arguments.seconds)
    with measuring("killed workers of a mesh"):
        mesh_figures(device, tiny=tiny)


if __name__ == "__main__":
    main()
