"""Latency of single images by REST, and of eight in flight as events.

    python -m bench.latency

*Added* is the time from the request to its answer at one image in flight, less what the plain loop
needs in one thread: both take turns of some images, and the median of the turns' differences
counts, so that a machine that changes its pace changes both. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from bench.baseline import Loop
from bench.load import Driver, distinct, fresh_mesh, photos
from bench.models import yolox_folder
from visionmesh.models.folder import load_folder

IN_FLIGHT = 8
TURN = 40
"""Images of one side before it is the other's turn."""


def rest(url: str, model: str, images: Iterator[bytes]) -> list[float]:
    """Return the milliseconds from each request to its answer, one after the other."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    took = []
    for image in images:
        began = time.perf_counter()
        connection.request("POST", f"/v1/models/{model}/infer", image)
        answer = connection.getresponse()
        body = answer.read()
        took.append((time.perf_counter() - began) * 1e3)
        assert answer.status == 200, body
    connection.close()
    return took


def open_loop(folder: Path) -> Loop:
    """Return the plain loop over the model in ``folder``, with one thread as an engine has."""
    model = load_folder(folder)
    (weights,) = model.versions.values()
    return Loop(model=weights, threads=1, spec=model.spec.input)


def plain(loop: Loop, images: Iterator[bytes]) -> list[float]:
    """Return the milliseconds of the plain loop for each image."""
    took = []
    for image in images:
        began = time.perf_counter()
        loop.recognise(image)
        took.append((time.perf_counter() - began) * 1e3)
    return took


async def measure(folder: Path, *, count: int, seconds: float) -> dict[str, float]:
    images = distinct(photos())
    async with fresh_mesh(folder) as (running, mesh):
        name, url = folder.name, running.http_url
        loop = open_loop(folder)
        rest(url, name, islice(images, 40))
        plain(loop, islice(images, TURN))
        single, alone, added = [], [], []
        for _ in range(count // TURN):
            single.append(statistics.median(rest(url, name, islice(images, TURN))))
            alone.append(statistics.median(plain(loop, islice(images, TURN))))
            added.append(single[-1] - alone[-1])
        same = next(images)
        hits = rest(url, name, iter([same] * count))[count // 4 :]
        driver = Driver(mesh=mesh, model=name)
        await driver.run(images, in_flight=IN_FLIGHT, seconds=3)
        load = await driver.run(images, in_flight=IN_FLIGHT, seconds=seconds)
    p50, p99 = load.quantile(0.5), load.quantile(0.99)
    return {
        "rest_p50_ms": statistics.median(single),
        "plain_p50_ms": statistics.median(alone),
        "added_p50_ms": statistics.median(added),
        "hit_p50_ms": statistics.median(hits),
        "eight_p50_ms": p50,
        "eight_p99_ms": p99,
        "eight_p99_by_p50": p99 / p50,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="single requests")
    parser.add_argument("--seconds", type=float, default=20.0, help="with eight in flight")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = yolox_folder(Path(root))
        found = uvloop.run(measure(folder, count=arguments.count, seconds=arguments.seconds))
    for name, value in found.items():
        print(f"{name:<20}{value:>10.2f}")
    rounded = {name: round(value, 2) for name, value in found.items()}
    print(json.dumps({"benchmark": "latency", "cpus": os.cpu_count(), **rounded}))


if __name__ == "__main__":
    main()
