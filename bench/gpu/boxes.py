"""Boxes of YOLOv8s (84 values of 8,400, FP16) found on a GPU, against the same on the CPU.

    python -m bench.gpu.boxes --device cuda

For a photo (12 objects), a crowd (400) and a network that is sure of everything (noise): one core
that reads the outputs, suppresses and answers; the device's time for a batch, between two events;
and the time of the whole call, until the survivors are Python's. The floor is what reading the
outputs once takes at the bandwidth of a copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from bench.gpu.crowds import Float, crowd, noise
from bench.gpu.figures import Figure, options
from bench.gpu.machine import ceilings
from bench.gpu.timing import device_seconds
from services.postprocess.decoders import Array
from services.postprocess.decoders.yolov8 import YoloV8
from services.postprocess.gpu.workspace import Workspaces
from services.postprocess.gpu.yolov8 import yolov8
from visionmesh.contracts import Params, Placement
from visionmesh.gpu import Gpu, open_gpu
from visionmesh.models.spec import ModelSpec

BOXES, CLASSES, SIZE = 8400, 80, 640

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
        device = device_seconds(
            gpu,
            workspace.stream,
            lambda: reducer.enqueue(workspace, heads, wishes),
            repeats=repeats,
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
    arguments = options(__doc__).parse_args()
    gpu, tiny = open_gpu(arguments.device), arguments.tiny
    bandwidth = ceilings(gpu, tiny=tiny).bytes_per_s
    for case in _CASES:
        for images in (2,) if tiny else (1, 8, 32):
            row = measure(gpu, case, images, repeats=1 if tiny else 50, bandwidth=bandwidth)
            Figure(
                what=f"boxes of {images} images, {case}: on the device",
                value=row.device,
                unit="ms",
                floor=f"{row.floor:.4f} ms to read the outputs",
                note=f"{row.whole:.3f} ms until they are home; one core {row.cpu:.2f} ms; "
                f"{row.candidates} candidates",
            ).tell()


if __name__ == "__main__":
    main()
