"""The mesh against the best plain loop on the same machine, in turns, in one run.

    python -m bench.throughput --rounds 3

Each round measures the loop and then the mesh, for YOLOX-nano and for a small network of about
5 ms. All images are different, so no cache helps. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench import baseline
from bench.load import PHOTOS, Driver, distinct, fresh_mesh, photos
from bench.models import small_folder, yolox_folder
from visionmesh.models.folder import load_folder

IN_FLIGHT = 64
WARM_UP = 4.0


async def mesh_rate(folder: Path, images: Iterator[bytes], *, seconds: float) -> float:
    """Return images per second through a mesh of its own, with 64 events in flight."""
    async with fresh_mesh(folder) as (_, mesh):
        driver = Driver(mesh=mesh, model=folder.name)
        await driver.run(images, in_flight=IN_FLIGHT, seconds=WARM_UP)
        load = await driver.run(images, in_flight=IN_FLIGHT, seconds=seconds)
    assert set(load.statuses) == {"ok"}, load.statuses
    return load.rate


def loop_rate(folder: Path, *, seconds: float) -> float:
    """Return images per second of the best plain loop."""
    model = load_folder(folder)
    (weights,) = model.versions.values()
    return baseline.run(PHOTOS, weights, seconds=seconds, spec=model.spec.input).images_per_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    arguments = parser.parse_args()
    images = distinct(photos())
    print(f"{'model':<12}{'loop':>10}{'mesh':>10}{'ratio':>8}")
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as root:
        folders = [yolox_folder(Path(root)), small_folder(Path(root))]
        for _ in range(arguments.rounds):
            for folder in folders:
                loop = loop_rate(folder, seconds=arguments.seconds / 2)
                mesh = uvloop.run(mesh_rate(folder, images, seconds=arguments.seconds))
                ratios.setdefault(folder.name, []).append(mesh / loop)
                print(f"{folder.name:<12}{loop:>10.1f}{mesh:>10.1f}{mesh / loop:>8.2f}", flush=True)
    medians = {name: round(statistics.median(found), 3) for name, found in ratios.items()}
    print(json.dumps({"benchmark": "throughput", "cpus": os.cpu_count(), "ratio": medians}))


if __name__ == "__main__":
    main()
