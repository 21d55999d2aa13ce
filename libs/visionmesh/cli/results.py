"""Results as lines in a terminal, and drawn onto their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path

import cv2
import numpy as np
from rich.text import Text

from visionmesh.contracts import Result, Status
from visionmesh.drawing import draw

_CLASSES_SHOWN = 3
_STYLES = {Status.OK: "green", Status.ERROR: "red", Status.EXPIRED: "yellow"}


def summary(result: Result) -> str:
    """Return in a few words what was recognised, or why nothing was."""
    if result.error is not None:
        return f"{result.error.message} [{result.error.code}]"
    if result.detections is not None:
        counted = Counter(found.label for found in result.detections)
        return ", ".join(f"{n} {label}" for label, n in counted.most_common()) or "nothing found"
    if result.classes is not None:
        best = result.classes[:_CLASSES_SHOWN]
        return ", ".join(f"{found.label} {found.score:.0%}" for found in best)
    if result.regions is not None:
        parts = result.regions[:_CLASSES_SHOWN]
        return ", ".join(f"{part.label} {part.share:.1%}" for part in parts) or "nothing found"
    if result.embedding is not None:
        return f"embedding of {len(result.embedding)} values"
    return ""


def line(result: Result, *, name: str | None = None) -> Text:
    """Return one line: when, what it was, how it ended, what was found, how long it took."""
    cached = result.cache is not None and result.cache.hit
    return Text.assemble(
        (f"{result.time.astimezone():%T} ", "dim"),
        f"{result.model} ",
        (f"{name or result.source + '/' + result.id} ", "bold" if name else "dim"),
        (f"{result.status} ", _STYLES[result.status]),
        summary(result),
        (f"  {result.timings.get('total', 0.0):.1f} ms{' cached' if cached else ''}", "dim"),
    )


def drawings(images: Iterable[Path], folder: Path) -> dict[Path, Path]:
    """Return for each image the file in ``folder`` that it is drawn to; no two share one.

    It is called like the image, and numbered where the name is taken, be it by an image itself.
    """
    images = dict.fromkeys(images)
    originals = [path.resolve() for path in images]
    taken = {path.name for path in originals if path.parent == folder.resolve()}
    places: dict[Path, Path] = {}
    for path in images:
        names = (f"{path.stem}{mark}.jpg" for mark in chain([""], (f"-{n}" for n in count(2))))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        places[path] = folder / name
    return places


def draw_file(image: bytes, result: Result, to: Path, *, heatmap: bytes | None = None) -> bool:
    """Write ``image`` with its result drawn on it as JPEG; `False` if it cannot be decoded here.

    ``heatmap`` is the PNG of the result's heat-map.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # of an empty file, or one with more pixels than OpenCV takes
        return False
    if pixels is None:
        return False
    to.parent.mkdir(parents=True, exist_ok=True)
    written: bool = cv2.imwrite(str(to), draw(pixels, result, heatmap=heatmap))
    return written
