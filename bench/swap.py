"""A new version under load: does an image fail, and by how much does the slowest per cent wait?

    python -m bench.swap --swaps 3

Measures the capacity with YOLOX-nano, then publishes a steady share of it, and pushes one new
version after the other. *During* is from the beginning of a push until a second after the first
result of the new version; *before* is as long a time right before the push. Prints a table and a
JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import uvloop
from nats.aio.msg import Msg

from bench.load import Driver, distinct, fresh_mesh, photos
from bench.models import yolox_folder
from visionmesh.client import Mesh
from visionmesh.contracts import Result
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry

IN_FLIGHT = 64
CALM = 6.0
"""Seconds between two swaps."""
AFTER = 1.0
"""Seconds after the first result of a new version that still count as the swap."""
LAST_IMAGES = 30.0


@dataclass
class Image:
    """When it was published, and what came of it; times in seconds."""

    began: float
    latency: float | None = None
    ok: bool = False


class Stream:
    """Publishes at a steady rate, whatever comes back, and keeps what became of each image."""

    def __init__(self, *, mesh: Mesh, model: str, images: Iterator[bytes], rate: float) -> None:
        self._mesh = mesh
        self._model = model
        self._images = images
        self._rate = rate
        self._all_sent = False
        self._all_answered = asyncio.Event()
        self.sent: dict[str, Image] = {}
        self.answered_by: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        """Set by the first result of a version."""

    async def run(self, stop: asyncio.Event) -> None:
        client = self._mesh._connection.client
        subject = f"vm.results.{self._model}.swap.*"
        subscription = await client.subscribe(subject, cb=self._heard)
        publishing: set[asyncio.Task[str]] = set()
        began = time.perf_counter()
        for number in itertools.count():
            await asyncio.sleep(began + number / self._rate - time.perf_counter())
            if stop.is_set():
                break
            id = f"swap-{number}"
            self.sent[id] = Image(time.perf_counter())
            publishing.add(
                asyncio.create_task(
                    self._mesh.publish(self._model, next(self._images), source="swap", id=id)
                )
            )
            publishing = {task for task in publishing if not task.done()}
        self._all_sent = True
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_IMAGES):
                await self._all_answered.wait()
        await subscription.unsubscribe()

    async def _heard(self, message: Msg) -> None:
        image = self.sent.get(message.subject.rpartition(".")[2])
        if image is not None and image.latency is None:
            result = Result.model_validate_json(message.data)
            image.latency = time.perf_counter() - image.began
            image.ok = result.status == "ok"
            self.answered_by[result.version or 0].set()
            if self._all_sent and all(image.latency for image in self.sent.values()):
                self._all_answered.set()

    def p99(self, begin: float, end: float) -> float:
        """Return the 99th percentile in milliseconds of images published in this time."""
        latencies = [
            image.latency for image in self.sent.values()
            if begin <= image.began < end and image.latency is not None
        ]  # fmt: skip
        return float(np.quantile(latencies, 0.99)) * 1e3


def add_version(folder: Path, version: int) -> None:
    """Copy the first version under a new number; a mark makes it another file."""
    target = folder / str(version) / "model.onnx"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(folder / "1" / "model.onnx", target)
    network = onnx.load(target)
    network.metadata_props.add(key="version", value=str(version))
    onnx.save(network, target)


async def measure(folder: Path, *, share: float, swaps: int) -> dict[str, float]:
    images = distinct(photos())
    async with fresh_mesh(folder) as (_, mesh):
        driver = Driver(mesh=mesh, model=folder.name)
        await driver.run(images, in_flight=IN_FLIGHT, seconds=3)
        capacity = (await driver.run(images, in_flight=IN_FLIGHT, seconds=8)).rate
        stream = Stream(mesh=mesh, model=folder.name, images=images, rate=share * capacity)
        stop = asyncio.Event()
        running = asyncio.create_task(stream.run(stop))
        registry = Registry(mesh._connection.client)
        spans: list[tuple[float, float]] = []
        for version in range(2, 2 + swaps):
            add_version(folder, version)
            await asyncio.sleep(CALM)
            began = time.perf_counter()
            await registry.push(load_folder(folder), version=version)
            await stream.answered_by[version].wait()
            await asyncio.sleep(AFTER)
            spans.append((began, time.perf_counter()))
        stop.set()
        await running
    rows = []
    print(f"{'swap':<6}{'seconds':>9}{'before ms':>11}{'during ms':>11}{'ratio':>8}")
    for number, (began, ended) in enumerate(spans, start=1):
        before = stream.p99(began - min(ended - began, CALM), began)
        during = stream.p99(began, ended)
        rows.append(during / before)
        print(f"{number:<6}{ended - began:>9.1f}{before:>11.0f}{during:>11.0f}{rows[-1]:>8.2f}")
    return {
        "capacity_per_s": round(capacity, 1),
        "images": len(stream.sent),
        "failed": sum(not image.ok for image in stream.sent.values()),
        "p99_during_by_before": round(statistics.median(rows), 2),
        "worst": round(max(rows), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.9, help="of the capacity")
    parser.add_argument("--swaps", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = yolox_folder(Path(root), cache=False)
        found = uvloop.run(measure(folder, share=arguments.share, swaps=arguments.swaps))
    print(json.dumps({"benchmark": "swap", "cpus": os.cpu_count(), **found}))


if __name__ == "__main__":
    main()
