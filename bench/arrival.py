"""How long a network of 100 MB takes from its file to its first answer in the mesh.

    python -m bench.arrival --rounds 3

A network of ResNet-50's shape with 1,000 classes is imported and pushed by the commands, as a user
does, into a running mesh that has no model. *Copying* is the way of the same bytes into the mesh's
object store and out of it into a node's folder, alone. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from bench.load import fresh_mesh, photos
from bench.resnet50 import CLASSES, save_imagenet
from visionmesh.client import Mesh
from visionmesh.models.artifacts import ArtifactStore, file_sha256

COMMAND = Path(sys.executable).parent / "visionmesh"
NAME = "arrival"
PATIENCE = 180.0
"""Seconds that a push waits until the model is served."""


async def run(*arguments: str | Path) -> float:
    """Run a command; return its seconds."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        COMMAND, *arguments, stdout=asyncio.subprocess.DEVNULL
    )
    status = await process.wait()
    assert status == 0, f"visionmesh {arguments[0]} ended with {status}"
    return time.perf_counter() - began


async def first_answer(mesh: Mesh) -> float:
    """Return the seconds until a photo is answered."""
    began = time.perf_counter()
    result = await mesh.infer(NAME, photos()[0])
    assert result.status == "ok", result
    return time.perf_counter() - began


async def copy(mesh: Mesh, file: Path, node: Path) -> float:
    """Return the seconds that the bytes of ``file`` take into the mesh, and to ``node``."""
    store, sha256 = ArtifactStore(mesh._connection.client), file_sha256(file)
    await store.delete(sha256)
    began = time.perf_counter()
    await store.put(sha256, file)
    await store.fetch(sha256, node)
    return time.perf_counter() - began


async def measure(network: Path, labels: Path, root: Path) -> dict[str, float]:
    """Return the seconds of each step, in a mesh of its own."""
    models, found = root / "models", {}
    async with fresh_mesh() as (running, mesh):
        found["import"] = await run(
            "import", network, "--name", NAME, "--task", "classification",
            "--labels", labels, "--models", models,
        )  # fmt: skip
        state = running.settings.state_dir
        found["push"] = await run(
            "push", models / NAME, "--state", state, "--wait", str(PATIENCE)
        )  # fmt: skip
        found["answer"] = await first_answer(mesh)
        found["in_all"] = sum(found.values())
        found["copying"] = await copy(mesh, models / NAME / "1" / "model.onnx", root / "node")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        network, labels = save_imagenet(root / "network.onnx"), root / "labels.txt"
        labels.write_text("\n".join(f"class {number}" for number in range(CLASSES)))
        size = network.stat().st_size / 1e6
        for number in range(arguments.rounds):
            rounds.append(uvloop.run(measure(network, labels, root / str(number))))
            if number == 0:
                print("".join(f"{name:>10}" for name in rounds[0]))
            print("".join(f"{seconds:>9.1f}s" for seconds in rounds[-1].values()), flush=True)
    middle = {f"{name}_s": statistics.median(one[name] for one in rounds) for name in rounds[0]}
    found = {name: round(seconds, 2) for name, seconds in middle.items()}
    found["worst_s"] = round(max(one["in_all"] for one in rounds), 2)
    print(json.dumps({"benchmark": "arrival", "cpus": os.cpu_count(), "mb": round(size), **found}))


if __name__ == "__main__":
    main()
