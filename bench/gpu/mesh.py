"""A whole mesh on a GPU: JPEG events in, results out, a detector of YOLOv8s's shape.

    python -m bench.gpu.mesh

Its throughput is divided by the slower of two parts alone: the engine on pixels that lie on the
device, and the preparing of JPEGs (decode, letterbox) into the arena. All three have as many
threads as the mesh has replicas and slots. Then one image at a time is in flight.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import uvloop

from bench.gpu.engines import Subject
from bench.gpu.figures import Figure, options, skip
from bench.gpu.meshes import ARENA_BYTES, PICTURES, REPLICAS, device_mesh, load, statuses
from bench.gpu.overlap import rate
from bench.gpu.pictures import pictures
from services.infer.engines import ENGINES, kind_of
from services.preprocess.gpu.decoding import open_jpeg_decoder
from services.preprocess.gpu.preparer import GpuPreparer
from services.preprocess.job import Job
from visionmesh.errors import ConfigurationError, Reject
from visionmesh.gpu import Gpu, open_gpu
from visionmesh.models.spec import InputSpec, Instance
from visionmesh.tensors import DeviceArena

_BATCH = 32
_SLOTS = 2
_BUNDLE = 8
"""Images that preprocess gets at once under load."""
_THREADS = 2
"""Of each preprocess worker."""
_SIZE = "640x480"
"""As most photos of the data set COCO."""


def engine_rate(subject: Subject, engine: str, *, gpu: Gpu, device: str, seconds: float) -> float:
    """Return the images per second of the engines of all infer workers, without a mesh."""
    instance = Instance(device=device, engines=(engine,))
    engines = subject.open(engine, instance, count=_SLOTS)
    with gpu.stream() as stream:
        images = [gpu.xp.asarray(image) for image in subject.images(_BATCH)]
        stream.synchronize()
    for one in engines:
        one.run(images, home=False)
    found = rate(engines, images, seconds=seconds, home=False)
    for one in engines:
        one.close()
    return found


def prepare_rate(
    encoded: Sequence[bytes], spec: InputSpec, *, gpu: Gpu, threads: int, seconds: float
) -> tuple[float, dict[str, int]]:
    """Return images per second of the preparing alone, and how many were decoded where."""
    decoded: dict[str, int] = {}

    def count(where: str, _: str) -> None:
        decoded[where] = decoded.get(where, 0) + 1

    preparer = GpuPreparer(
        gpu=gpu,
        max_pixels=1 << 30,
        at_once=threads,
        open_decoder=open_jpeg_decoder,
        count=count,
    )
    arena = DeviceArena(
        gpu=gpu,
        directory=Path("/dev/shm"),
        name=f"visionmesh-bench-{secrets.token_hex(4)}",
        size=min(ARENA_BYTES, gpu.info.memory_bytes // 8),
        lease=timedelta(minutes=1),
    )
    with closing(arena):
        _turn(preparer, encoded, spec, arena, threads=threads, seconds=seconds / 4)
        decoded.clear()
        found = _turn(preparer, encoded, spec, arena, threads=threads, seconds=seconds)
    return found, decoded


def _turn(
    preparer: GpuPreparer,
    encoded: Sequence[bytes],
    spec: InputSpec,
    arena: DeviceArena,
    *,
    threads: int,
    seconds: float,
) -> float:
    """Return the images per second that threads prepare at the same time."""
    began = time.perf_counter()
    done = [0] * threads

    def work(number: int) -> None:
        while time.perf_counter() - began < seconds:
            at = done[number] % (len(encoded) - _BUNDLE + 1)
            _prepare(preparer, encoded[at : at + _BUNDLE], spec, arena)
            done[number] += _BUNDLE

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def _prepare(
    preparer: GpuPreparer, bundle: Sequence[bytes], spec: InputSpec, arena: DeviceArena
) -> None:
    jobs = []
    for image in bundle:
        slot = arena.reserve(spec.height * spec.width * spec.channels)
        assert slot is not None
        jobs.append(Job(payload=memoryview(image), spec=spec, slot=slot))
    found = preparer.prepare(jobs)
    assert not [one for one in found if isinstance(one, Reject)]
    for job in jobs:
        job.slot.discard()


async def mesh_figures(
    subject: Subject, *, device: str, arguments: argparse.Namespace, slower: float, what: str
) -> None:
    """Tell throughput and latency of the mesh itself."""
    replicas = dict.fromkeys(REPLICAS, 1) if arguments.tiny else REPLICAS
    seconds = 2.0 if arguments.tiny else arguments.seconds
    producers, in_flight = (1, 8) if arguments.tiny else (arguments.producers, arguments.in_flight)
    async with device_mesh(subject.folder, device, replicas) as (running, _):
        name = subject.folder.name
        single = await load(
            running.nats_url, name, producers=1, in_flight=1, seconds=seconds / 2, size=_SIZE
        )
        many = await load(
            running.nats_url, name, producers=producers,
            in_flight=8 if arguments.tiny else arguments.in_flight, seconds=seconds, size=_SIZE,
        )  # fmt: skip
    assert set(statuses([*single, *many])) == {"ok"}, statuses([*single, *many])
    together = sum(one.rate for one in many)
    p50, p99 = np.quantile([took for one in many for took in one.latencies], (0.5, 0.99))
    under = f"{producers} producers, {in_flight} in flight"
    Figure(
        what=f"whole mesh ÷ the slower of engine and preparing, {what}",
        value=together / slower,
        at_least=0.7,
        note=f"{under}; replicas {', '.join(f'{n} {c}' for n, c in replicas.items())}",
    ).tell()
    Figure(
        what=f"whole mesh, {what}",
        value=together,
        unit="images/s",
        at_least=1500,
        note=f"p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms",
    ).tell()
    Figure(
        what=f"whole mesh, {what}, one image in flight, p50",
        value=single[0].quantile(0.5),
        unit="ms",
        at_most=8,
        note=f"p99 {single[0].quantile(0.99):.1f} ms",
    ).tell()


def measure(engine: str, *, arguments: argparse.Namespace, root: Path) -> None:
    """Tell all figures of a mesh with this engine."""
    device, tiny = arguments.device, arguments.tiny
    gpu, seconds = open_gpu(device), 0.5 if tiny else 3.0
    subject = Subject.make(root, "yolov8s", device=device, tiny=tiny, engines=(engine,))
    try:
        engines = engine_rate(subject, engine, gpu=gpu, device=device, seconds=seconds)
    except ConfigurationError as error:
        skip(f"whole mesh with {engine}", error)
        return
    width, height = map(int, _SIZE.split("x"))
    encoded = pictures(PICTURES, width=width, height=height)
    threads = _THREADS * (1 if tiny else REPLICAS["preprocess"])
    spec = subject.spec.input
    prepared, where = prepare_rate(encoded, spec, gpu=gpu, threads=threads, seconds=seconds)
    Figure(
        what=f"{engine} alone, batches of {_BATCH}, {_SLOTS} slots", value=engines, unit="images/s"
    ).tell()
    decoded = ", ".join(f"{count} on the {name}" for name, count in where.items())
    Figure(
        what=f"preparing alone, JPEGs of {_SIZE}, {threads} threads",
        value=prepared,
        unit="images/s",
        note=f"decoded: {decoded}",
    ).tell()
    slower = min(engines, prepared)
    mesh = mesh_figures(subject, device=device, arguments=arguments, slower=slower, what=engine)
    uvloop.run(mesh)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--engines", help="by default all that serve the device")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--producers", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=384)
    arguments = parser.parse_args()
    engines = arguments.engines or ",".join(ENGINES[kind_of(arguments.device)])
    for engine in engines.split(","):
        with tempfile.TemporaryDirectory() as root:
            measure(engine, arguments=arguments, root=Path(root))


if __name__ == "__main__":
    main()
