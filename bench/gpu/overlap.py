"""Two batches on a GPU at a time against one: copies of one beside the computing of the other.

    python -m bench.gpu.overlap

Images come from the host's memory and outputs go back there, in batches of 32; each slot has a
thread of its own, as in the mesh. Both ways take turns, and the median of the turns counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.gpu.engines import OPTIONS, Subject
from bench.gpu.figures import Figure, measuring, options
from bench.gpu.machine import Ceilings, ceilings
from services.infer.engines import ENGINES, Engine, Image, kind_of
from visionmesh.gpu import open_gpu
from visionmesh.models.spec import Instance

_BATCH = 32
_ROUNDS = 3
_SLOTS = 2


def rate(
    engines: Sequence[Engine], images: Sequence[Image], *, seconds: float, home: bool = True
) -> float:
    """Return the images per second of engines that run at the same time, over and over."""
    began = time.perf_counter()

    def work(engine: Engine) -> int:
        batches = 0
        while time.perf_counter() - began < seconds:
            engine.run(images, home=home)
            batches += 1
        return batches

    with ThreadPoolExecutor(len(engines)) as pool:
        batches = sum(pool.map(work, engines))
    return batches * len(images) / (time.perf_counter() - began)


def measure(subject: Subject, name: str, *, device: str, best: Ceilings, seconds: float) -> None:
    """Tell the figure of one engine."""
    instance = Instance(device=device, engines=(name,), slots=_SLOTS, options=OPTIONS.get(name, {}))
    engines = subject.open(name, instance, count=_SLOTS)
    images = subject.images(_BATCH)
    for engine in engines:
        engine.run(images)
    serial, both = [], []
    for _ in range(_ROUNDS):
        serial.append(rate(engines[:1], images, seconds=seconds))
        both.append(rate(engines, images, seconds=seconds))
    for engine in engines:
        engine.close()
    one, two = statistics.median(serial), statistics.median(both)
    Figure(
        what=f"{subject.name} by {name}: {_SLOTS} slots ÷ one",
        value=two / one,
        at_least=1.3,
        floor=f"{subject.cost.floor(_BATCH, best) * 1e3:.3f} ms a batch to compute",
        note=f"{two:,.0f} against {one:,.0f} images/s, batches of {_BATCH} from and to the host",
    ).tell()


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--network", default="yolov8s")
    arguments = parser.parse_args()
    tiny, device = arguments.tiny, arguments.device
    best = ceilings(open_gpu(device), tiny=tiny)
    with tempfile.TemporaryDirectory() as root:
        name = "tiny" if tiny else arguments.network
        subject = Subject.make(Path(root), name, device=device, tiny=tiny)
        for engine in ENGINES[kind_of(device)]:
            with measuring(f"overlap of {name} by {engine}"):
                measure(subject, engine, device=device, best=best, seconds=0.2 if tiny else 2.0)


if __name__ == "__main__":
    main()
