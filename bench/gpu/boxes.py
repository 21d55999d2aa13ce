"""Boxes of YOLOv8s (84 values of 8,400, FP16) found on a GPU, against the same on the CPU.

    python -m bench.gpu.boxes --device cuda

For a photo (12 objects), a crowd (400) and a network that is sure of everything (noise): one core
that reads the outputs, suppresses and answers; the device's time for a batch, between two events;
and the time of the whole call, until the survivors are Python's. The floor is what reading the
outputs once takes at the bandwidth given. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np

from bench.gpu.crowds import Float, crowd, noise
from services.postprocess.decoders import Array
from services.postprocess.decoders.yolov8 import YoloV8
from services.postprocess.gpu.workspace import Workspaces
from services.postprocess.gpu.yolov8 import yolov8
from visionmesh.contracts import Params, Placement
from visionmesh.gpu import Gpu, Stream, open_gpu
from visionmesh.models.spec import ModelSpec

BOXES, CLASSES, SIZE = 8400, 80, 640
H100_BYTES_PER_S = 3.35e12
"""Of the memory of an H100 SXM, by its data sheet; an H200 has 4.8e12."""

_PLACEMENT = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)
_CASES = MappingProxyType[str, Callable[[np.random.Generator], Float]](
    {
        "photo": lambda random: crowd(random, objects=12, boxes=BOXES, classes=CLASSES),
        "crowd": lambda random: crowd(random, objects=400, boxes=BOXES, classes=CLASSES),
        "noise": lambda random: noise(random, boxes=BOXES, classes=CLASSES),
    }
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement; times are milliseconds."""

    case: str
    images: int
    candidates: int
    """Of the first image."""
    cpu: float
    """For all images, one after the other."""
    device: float
    whole: float
    floor: float


def measure(gpu: Gpu, case: str, images: int, *, repeats: int, bandwidth: float) -> Row:
    """Time a batch of ``images``; raise `AssertionError` if device and CPU do not agree."""
    random = np.random.default_rng(images)
    outputs = [_CASES[case](random).astype(np.float16) for _ in range(images)]
    decoder = YoloV8(_spec())
    workspaces = Workspaces(gpu=gpu)
    reducer = yolov8(workspaces, decoder)
    wishes = [Params()] * images
    with workspaces.borrow() as workspace:
        heads = [gpu.xp.asarray(output) for output in outputs]
        reducer.enqueue(workspace, heads, wishes)
        device = device_time(
            gpu, workspace.stream, lambda: reducer.enqueue(workspace, heads, wishes), repeats
        )

    def whole() -> list[object]:
        found = reducer.reduce([{"o": head} for head in heads], wishes)
        return [one and one.answer(Params(), _PLACEMENT, SIZE, SIZE) for one in found]

    def cpu() -> list[object]:
        return [_on_cpu(decoder, output) for output in outputs]

    assert whole() == cpu()
    return Row(
        case=case,
        images=images,
        candidates=len(decoder.reduce({"o": outputs[0]})["scores"]),
        cpu=1e3 * _wall(cpu, 1 + repeats // 10),
        device=1e3 * device,
        whole=1e3 * _wall(whole, repeats),
        floor=1e3 * sum(output.nbytes for output in outputs) / bandwidth,
    )


def device_time(gpu: Gpu, stream: Stream, work: Callable[[], object], repeats: int) -> float:
    """Return the seconds that ``work`` takes on ``stream``, which is current, launches included."""
    if gpu.info.kind != "cuda":
        stream.synchronize()
        return _wall(work, repeats)
    from cupy.cuda import Event, get_elapsed_time  # noqa: PLC0415 - only where GPUs are

    begin, end = Event(), Event()
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    milliseconds: float = get_elapsed_time(begin, end)
    return milliseconds / 1e3 / repeats


def _on_cpu(decoder: YoloV8, output: Array) -> object:
    return decoder.answer(decoder.reduce({"o": output}), Params(), _PLACEMENT, SIZE, SIZE)


def _wall(work: Callable[[], object], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - began) / repeats


def _spec() -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "yolov8s",
            "task": "detection",
            "input": {"width": SIZE, "height": SIZE},
            "output": {"decoder": "yolov8"},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--bandwidth", type=float, default=H100_BYTES_PER_S, help="bytes/s")
    asked = parser.parse_args()
    gpu = open_gpu(asked.device)
    print(f"{gpu.info.name}\n{'':<8}{'images':>8}{'found':>8}{'CPU':>10}{'device':>10}"
          f"{'whole':>10}{'floor':>10}  (ms)")  # fmt: skip
    rows = []
    for case in _CASES:
        for images in asked.images:
            row = measure(gpu, case, images, repeats=asked.repeats, bandwidth=asked.bandwidth)
            rows.append(row)
            print(f"{row.case:<8}{row.images:>8}{row.candidates:>8}{row.cpu:>10.2f}"
                  f"{row.device:>10.3f}{row.whole:>10.3f}{row.floor:>10.4f}")  # fmt: skip
    print(json.dumps({"benchmark": "boxes", "device": gpu.info.name, "rows": [*map(asdict, rows)]}))


if __name__ == "__main__":
    main()
