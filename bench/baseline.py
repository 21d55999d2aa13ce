"""The best plain loop: what one machine recognises without a mesh.

Decode, letterbox, blob, ONNX Runtime, boxes and NMS of YOLOX, image after image, with preallocated
buffers and no queue, once as one process with two threads in the model and once as two processes
with one thread each. The better of the two is what a mesh on the same machine is divided by.

    python bench/baseline.py --images photos/ --model yolox_nano.onnx --seconds 10
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.preprocess.pixels import Prepared, prepare
from visionmesh.models.spec import InputSpec

MAX_PIXELS: Final = 200_000_000
STRIDES: Final = (8, 16, 32)
CONFIDENCE: Final = 0.25
IOU: Final = 0.45
WARM_UP: Final = 5
START_TIMEOUT: Final = 60.0
"""Seconds that loading the model may take."""
VARIANTS: Final = {"1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}

Detections = NDArray[np.float32]
"""``(N, 6)``: x1, y1, x2, y2 in pixels of the original, score, class."""


@dataclass(frozen=True)
class Baseline:
    images_per_s: float
    variant: str
    """The one that was faster."""
    variants: dict[str, float]
    """Images per second of each."""
    detections_per_image: float


class Yolox:
    """The boxes of a YOLOX network: decoded for the cells that are sure enough, then thinned out.

    Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430, section 2.
    """

    def __init__(self, *, width: int, height: int) -> None:
        grids = [np.mgrid[0 : height // stride, 0 : width // stride] for stride in STRIDES]
        cells = [grid[::-1].reshape(2, -1).T for grid in grids]
        self._corners = np.concatenate(cells).astype(np.float32)
        steps = [np.full(len(cell), stride) for cell, stride in zip(cells, STRIDES, strict=True)]
        self._strides = np.concatenate(steps).astype(np.float32)[:, None]

    def detect(self, output: NDArray[np.float32], facts: Prepared) -> Detections:
        """Return the objects in ``(cells, 5 + classes) float32``, the raw output of one image."""
        # A score is objectness by class, both at most 1: the first alone rules out most cells.
        sure = np.flatnonzero(output[:, 4] > CONFIDENCE)
        cells = output[sure]
        classes = cells[:, 5:].argmax(axis=1)
        scores = cells[:, 4] * cells[np.arange(len(cells)), 5 + classes]
        keep = scores > CONFIDENCE
        sure, cells, classes, scores = sure[keep], cells[keep], classes[keep], scores[keep]
        strides = self._strides[sure]
        centres = (cells[:, :2] + self._corners[sure]) * strides
        halves = np.exp(cells[:, 2:4]) * strides / 2
        boxes = np.hstack([centres - halves, centres + halves])
        kept = suppress(boxes, scores, classes)
        place = facts.placement
        offset = (place.offset_x, place.offset_y) * 2
        scale = (place.scale_x, place.scale_y) * 2
        limit = (facts.width, facts.height) * 2
        originals = np.clip((boxes[kept] - offset) / scale, 0, limit)
        return np.hstack([originals, scores[kept, None], classes[kept, None]]).astype(np.float32)


def suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return the indices that greedy NMS keeps within each class, best first.

    ``boxes`` are ``(N, 4)``: x1, y1, x2, y2. All pairs are compared at once; the loop runs over
    the boxes that are kept.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, classes = boxes[order], classes[order]
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = np.maximum(high - low, 0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    rivals = common > IOU * (areas[:, None] + areas[None, :] - common)
    rivals &= classes[:, None] == classes[None, :]
    left = np.ones(len(boxes), bool)
    kept = []
    for index in range(len(boxes)):
        if left[index]:
            kept.append(index)
            left &= ~rivals[index]
    return order[kept]


def best_classes(logits: NDArray[np.float32], count: int = 5) -> NDArray[np.float32]:
    """Return ``(count, 2)``: the most probable classes and their probabilities, best first."""
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    best = np.argpartition(-chances, count)[:count]
    best = best[np.argsort(-chances[best])]
    return np.stack([best, chances[best]], axis=1)


class Loop:
    """Everything that one process needs to recognise one image after the other."""

    def __init__(self, *, model: Path, threads: int, spec: InputSpec | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        source = self._session.get_inputs()[0]
        self._name, (_, _, height, width) = source.name, source.shape
        self._spec = spec or InputSpec(width=width, height=height, color="BGR", anchor="top_left")
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._planes = [np.empty((height, width), np.uint8) for _ in range(3)]
        self._blob = np.empty((1, 3, height, width), np.float32)
        self._boxes = Yolox(width=width, height=height)
        factor = self._spec.scale / np.array(self._spec.std, np.float32)
        offset = -np.array(self._spec.mean, np.float32) / np.array(self._spec.std, np.float32)
        self._factors = np.broadcast_to(factor, 3)
        self._offsets = np.broadcast_to(offset, 3)
        self._is_plain = bool((self._factors == 1).all() and (self._offsets == 0).all())

    def recognise(self, encoded: bytes) -> Detections:
        """Return the objects in one encoded image."""
        facts = prepare(encoded, self._spec, self._pixels, max_pixels=MAX_PIXELS)
        # Planes first, floats second: a third faster than one strided conversion.
        cv2.split(self._pixels, self._planes)
        for plane, place, factor, offset in zip(
            self._planes, self._blob[0], self._factors, self._offsets, strict=True
        ):
            if self._is_plain:
                np.copyto(place, plane)
            else:
                np.multiply(plane, factor, out=place)
                np.add(place, offset, out=place)
        (output,) = self._session.run(None, {self._name: self._blob})
        if output.ndim == 2:
            return best_classes(output[0])
        return self._boxes.detect(output[0], facts)


@dataclass(frozen=True)
class Job:
    """What each process does."""

    files: Sequence[Path]
    model: Path
    threads: int
    """Within one operator of the model."""
    seconds: float
    spec: InputSpec | None = None
    """Of the model's input; by default that of YOLOX."""


def _work(job: Job, start: Barrier, counts: Queue[tuple[int, int, float]]) -> None:
    loop = Loop(model=job.model, threads=job.threads, spec=job.spec)
    images = [file.read_bytes() for file in job.files]
    for n in range(WARM_UP):
        loop.recognise(images[n % len(images)])
    start.wait(START_TIMEOUT)
    began = now = time.perf_counter()
    done = found = 0
    while now < began + job.seconds:
        found += len(loop.recognise(images[done % len(images)]))
        done += 1
        now = time.perf_counter()
    counts.put((done, found, now - began))


def measure(job: Job, *, processes: int) -> tuple[float, float]:
    """Return images per second of all processes together, and the mean detections per image."""
    context = get_context("spawn")
    start = context.Barrier(processes)
    counts: Queue[tuple[int, int, float]] = context.Queue()
    workers = [context.Process(target=_work, args=(job, start, counts)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    results = [counts.get(timeout=START_TIMEOUT + 2 * job.seconds) for _ in workers]
    for worker in workers:
        worker.join()
    rate = sum(done / took for done, _, took in results)
    return rate, sum(found for _, found, _ in results) / sum(done for done, _, _ in results)


def run(
    images: Path,
    model: Path,
    *,
    seconds: float = 10.0,
    spec: InputSpec | None = None,
    report: Callable[[str, float], None] = lambda variant, rate: None,
) -> Baseline:
    """Measure each variant for ``seconds`` on the JPEGs of a folder and return the best."""
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise FileNotFoundError(f"{images} holds no .jpg files")
    rates: dict[str, float] = {}
    for variant, (processes, threads) in VARIANTS.items():
        job = Job(files=files, model=model, threads=threads, seconds=seconds, spec=spec)
        rates[variant], found = measure(job, processes=processes)
        report(variant, rates[variant])
    best = max(rates, key=rates.__getitem__)
    return Baseline(rates[best], best, rates, found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--model", type=Path, required=True, help="a YOLOX network in ONNX")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each variant")
    arguments = parser.parse_args()
    print(f"{'variant':<26}{'images/s':>10}")
    baseline = run(
        arguments.images,
        arguments.model,
        seconds=arguments.seconds,
        report=lambda variant, rate: print(f"{variant:<26}{rate:>10.1f}"),
    )
    print(json.dumps({"benchmark": "baseline", "cpus": os.cpu_count(), **asdict(baseline)}))


if __name__ == "__main__":
    main()
