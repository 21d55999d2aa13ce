"""Whole meshes whose stages work on a GPU, and producers that are fast enough for them."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import uvloop

from bench.gpu.pictures import pictures
from bench.load import Driver, Load, distinct, fresh_mesh
from visionmesh.client import Mesh
from visionmesh.embedded import NatsServer
from visionmesh.local import LocalMesh
from visionmesh.settings import (
    InferSettings,
    IngestSettings,
    PostprocessSettings,
    PreprocessSettings,
    Settings,
)

REPLICAS: Mapping[str, int] = {"ingest": 3, "preprocess": 3, "infer": 2, "postprocess": 3}
"""For 16 cores: an image costs about a millisecond of CPU in each stage, and in the server."""
ARENA_BYTES = 1 << 30
PICTURES = 64


def settings(device: str, replicas: Mapping[str, int]) -> Settings:
    """Return the settings of a mesh whose stages work on ``device``."""
    return Settings(
        ingest=IngestSettings(port=0, grpc_port=0, replicas=replicas["ingest"]),
        preprocess=PreprocessSettings(
            device=device, replicas=replicas["preprocess"], device_arena_bytes=ARENA_BYTES
        ),
        infer=InferSettings(replicas=replicas["infer"], device_arena_bytes=ARENA_BYTES),
        postprocess=PostprocessSettings(device=device, replicas=replicas["postprocess"]),
    )


@asynccontextmanager
async def device_mesh(
    folder: Path, device: str, replicas: Mapping[str, int]
) -> AsyncIterator[tuple[LocalMesh, Mesh]]:
    """Run a mesh of its own with one model, and a client of it."""
    with tempfile.TemporaryDirectory() as store:
        async with (
            NatsServer(store=Path(store)) as server,
            fresh_mesh(folder, settings=settings(device, replicas), nats_url=server.url) as (
                running,
                mesh,
            ),
        ):
            yield running, mesh


async def load(
    mesh_url: str, model: str, *, producers: int, in_flight: int, seconds: float, size: str
) -> list[Load]:
    """Let some processes publish at the same time; return what each of them saw."""

    async def produce(number: int) -> Load:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.gpu.meshes", mesh_url, model, f"producer-{number}",
            f"--in-flight={in_flight // producers}", f"--seconds={seconds}", f"--size={size}",
            stdout=PIPE,
        )  # fmt: skip
        printed, _ = await process.communicate()
        assert process.returncode == 0, "a producer failed"
        return Load(**json.loads(printed))

    return list(await asyncio.gather(*(produce(number) for number in range(producers))))


def statuses(loads: list[Load]) -> Counter[str]:
    """Return how many results of each status there were."""
    found: Counter[str] = Counter()
    for one in loads:
        found.update(one.statuses)
    return found


async def _produce(arguments: argparse.Namespace) -> Load:
    width, height = map(int, arguments.size.split("x"))
    images = distinct(pictures(PICTURES, width=width, height=height))
    async with Mesh(arguments.url) as mesh:
        driver = Driver(mesh=mesh, model=arguments.model, source=arguments.source)
        # The first seconds are those of other producers that begin a little later.
        await driver.run(images, in_flight=arguments.in_flight, seconds=arguments.seconds / 4)
        return await driver.run(images, in_flight=arguments.in_flight, seconds=arguments.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Publish pictures, and tell what came of them.")
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("source")
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--size", default="640x480")
    found = uvloop.run(_produce(parser.parse_args()))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main()
