"""A whole mesh on a GPU: JPEG events in, results out, a detector of YOLOv8s's shape.

    python -m bench.gpu.mesh

Its throughput is divided by the slower of two parts alone: the engine on pixels that lie on the
device, and the preparing of JPEGs (decode, letterbox) into the arena, in as many slots, and
processes with as many threads, as in the mesh. Before, one image at a time is in flight.
"""

from __future__ import annotations

import argparse
import multiprocessing
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import uvloop

from bench.gpu.engines import Subject
from bench.gpu.figures import Figure, measuring, options
from bench.gpu.machine import ceilings
from bench.gpu.meshes import ARENA_BYTES, PICTURES, REPLICAS, device_mesh, load, statuses
from bench.gpu.overlap import rate
from bench.gpu.pictures import pictures
from services.infer.engines import ENGINES, kind_of
from services.preprocess.gpu.decoding import open_jpeg_decoder
from services.preprocess.gpu.preparer import GpuPreparer
from services.preprocess.job import Job
from visionmesh.errors import Reject
from visionmesh.gpu import Gpu, open_gpu
from visionmesh.models.spec import InputSpec, Instance
from visionmesh.tensors import DeviceArena

_BATCH = 32
_SLOTS = 2
_BUNDLE = 8
"""Images that preprocess gets at once under load."""
_THREADS = 2
"""Of each preprocess worker."""
_PATIENCE = 60
"""Seconds until the last of the processes is ready."""
_SIZE = "640x480"
"""As most photos of the data set COCO."""


def engine_rate(
    subject: Subject, engine: str, *, gpu: Gpu, device: str, count: int, seconds: float
) -> float:
    """Return the images per second of ``count`` engines, without a mesh."""
    instance = Instance(device=device, engines=(engine,))
    engines = subject.open(engine, instance, count=count)
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
    device: str, encoded: Sequence[bytes], spec: InputSpec, *, processes: int, seconds: float
) -> tuple[float, Counter[str]]:
    """Return images per second of the preparing alone, and how many were decoded where."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, mp_context=context) as pool:
        ready = manager.Barrier(processes, timeout=_PATIENCE)
        turns = [
            pool.submit(_prepare_alone, device, encoded, spec, seconds, ready.wait)
            for _ in range(processes)
        ]
        found = [turn.result() for turn in turns]
    return sum(one for one, _ in found), sum((where for _, where in found), Counter())


def _prepare_alone(
    device: str,
    encoded: Sequence[bytes],
    spec: InputSpec,
    seconds: float,
    wait_for_others: Callable[[], object],
) -> tuple[float, Counter[str]]:
    """Do what one preprocess worker does, at the same time as the others."""
    gpu, decoded = open_gpu(device), Counter[str]()
    preparer = GpuPreparer(
        gpu=gpu,
        max_pixels=1 << 30,
        at_once=_THREADS,
        open_decoder=open_jpeg_decoder,
        count=lambda where, _: decoded.update([where]),
    )
    arena = DeviceArena(
        gpu=gpu,
        directory=Path("/dev/shm"),
        name=f"visionmesh-bench-{secrets.token_hex(4)}",
        size=min(ARENA_BYTES, gpu.info.memory_bytes // 8),
        lease=timedelta(minutes=1),
    )
    with closing(arena):
        _turn(preparer, encoded, spec, arena, seconds=seconds / 4)
        decoded.clear()
        wait_for_others()
        return _turn(preparer, encoded, spec, arena, seconds=seconds), decoded


def _turn(
    preparer: GpuPreparer,
    encoded: Sequence[bytes],
    spec: InputSpec,
    arena: DeviceArena,
    *,
    seconds: float,
) -> float:
    """Return the images per second that a worker's threads prepare."""
    began = time.perf_counter()

    def work(number: int) -> int:
        done = 0
        while time.perf_counter() - began < seconds:
            at = done % (len(encoded) - _BUNDLE + 1)
            _prepare(preparer, encoded[at : at + _BUNDLE], spec, arena)
            done += _BUNDLE
        return done

    with ThreadPoolExecutor(_THREADS) as pool:
        done = sum(pool.map(work, range(_THREADS)))
    return done / (time.perf_counter() - began)


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
    subject: Subject, *, arguments: argparse.Namespace, alone: str, slower: float, what: str
) -> None:
    """Tell throughput and latency of the mesh itself."""
    replicas, seconds = replicas_of(arguments), 2.0 if arguments.tiny else arguments.seconds
    producers, in_flight = (1, 8) if arguments.tiny else (arguments.producers, arguments.in_flight)
    async with device_mesh(subject.folder, arguments.device, replicas) as (running, _):
        drive = partial(load, running.nats_url, subject.folder.name, size=_SIZE)
        (single,) = await drive(producers=1, in_flight=1, seconds=seconds / 2)
        Figure(
            what=f"whole mesh, {what}, one image in flight, p50",
            value=single.quantile(0.5),
            unit="ms",
            at_most=8,
            note=f"p99 {single.quantile(0.99):.1f} ms, {len(single.latencies)} images",
        ).tell()
        many = await drive(producers=producers, in_flight=in_flight, seconds=seconds)
    together = sum(one.rate for one in many)
    p50, p99 = np.quantile([took for one in many for took in one.latencies], (0.5, 0.99))
    under = f"{producers} producers, {in_flight} in flight"
    Figure(
        what=f"whole mesh ÷ the slower of engine and preparing, {what}",
        value=together / slower,
        at_least=0.7,
        floor=alone,
        note=f"{under}; replicas {', '.join(f'{n} {c}' for n, c in replicas.items())}",
    ).tell()
    Figure(
        what=f"whole mesh, {what}",
        value=together,
        unit="images/s",
        at_least=1500,
        note=f"p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms",
    ).tell()
    found = statuses([single, *many])
    assert set(found) == {"ok"}, f"not all results are right: {dict(found)}"


def replicas_of(arguments: argparse.Namespace) -> Mapping[str, int]:
    return dict.fromkeys(REPLICAS, 1) if arguments.tiny else REPLICAS


def measure(engine: str, *, arguments: argparse.Namespace, root: Path) -> None:
    """Tell all figures of a mesh with this engine."""
    device, tiny, replicas = arguments.device, arguments.tiny, replicas_of(arguments)
    gpu, seconds, slots = open_gpu(device), 0.5 if tiny else 3.0, _SLOTS * replicas["infer"]
    subject = Subject.make(root, "yolov8s", device=device, tiny=tiny, engines=(engine,))
    computed = engine_rate(subject, engine, gpu=gpu, device=device, count=slots, seconds=seconds)
    most = _BATCH / subject.cost.floor(_BATCH, ceilings(gpu, tiny=tiny))
    Figure(
        what=f"{engine} alone, batches of {_BATCH}, {slots} slots",
        value=computed,
        unit="images/s",
        floor=f"{most:,.0f} images/s",
    ).tell()
    width, height = map(int, _SIZE.split("x"))
    encoded = pictures(PICTURES, width=width, height=height)
    prepared, where = prepare_rate(
        device, encoded, subject.spec.input, processes=replicas["preprocess"], seconds=seconds
    )
    Figure(
        what=f"preparing alone, JPEGs of {_SIZE}, {_THREADS} threads in each of "
        f"{replicas['preprocess']} processes",
        value=prepared,
        unit="images/s",
        note="decoded: " + ", ".join(f"{count} on the {name}" for name, count in where.items()),
    ).tell()
    slower, part = min((computed, engine), (prepared, "preparing"))
    alone = f"{part} alone {slower:,.0f} images/s"
    uvloop.run(mesh_figures(subject, arguments=arguments, alone=alone, slower=slower, what=engine))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--engines", help="by default all that serve the device")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--producers", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=384)
    arguments = parser.parse_args()
    engines = arguments.engines or ",".join(ENGINES[kind_of(arguments.device)])
    for engine in engines.split(","):
        with measuring(f"whole mesh, {engine}"), tempfile.TemporaryDirectory() as root:
            measure(engine, arguments=arguments, root=Path(root))


if __name__ == "__main__":
    main()
