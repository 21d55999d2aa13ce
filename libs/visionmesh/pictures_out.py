"""Results in the forms of other packages: drawn with OpenCV, as detections of supervision."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionmesh.contracts import Detection, Result
from visionmesh.pictures_in import Picture, Pixels, pixels_of
from visionmesh.rle import decode


def draw_on(image: Picture, result: Result, *, heatmap: bytes | None) -> Pixels:
    """Do what `Result.draw` says."""
    try:
        import cv2  # noqa: PLC0415 - the client is installed without it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Drawing needs OpenCV: pip install opencv-python-headless", name="cv2"
        ) from error
    from visionmesh.drawing import draw  # noqa: PLC0415 - as above

    if isinstance(image, str | Path):
        image = Path(image).read_bytes()
    if isinstance(image, bytes | bytearray | memoryview):
        # OpenCV answers with an exception where there is nothing, and with None to nonsense.
        bgr = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) if image else None
        if bgr is None:
            raise ValueError("The image cannot be decoded.")
    else:
        bgr = np.ascontiguousarray(pixels_of(image)[..., ::-1])
    drawn: Pixels = np.ascontiguousarray(draw(bgr, result, heatmap=heatmap)[..., ::-1])
    return drawn


def to_supervision(result: Result, labels: Sequence[str] | None) -> Any:
    """Do what `Result.to_supervision` says."""
    try:
        import supervision  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("This needs supervision: pip install supervision") from error

    found = result.detections or ()
    if not found:
        return supervision.Detections.empty()
    numbers = {label: number for number, label in enumerate(labels or ())}
    data: dict[str, Any] = {"class_name": np.array([one.label for one in found])}
    if all(one.corners is not None for one in found):
        data["xyxyxyxy"] = np.array([one.corners for one in found], np.float32)
    return supervision.Detections(
        xyxy=np.array([one.box for one in found], np.float32),
        mask=_masks(found),
        confidence=np.array([one.score for one in found], np.float32),
        class_id=np.array(
            [numbers[one.label] if labels else zlib.crc32(one.label.encode()) for one in found]
        ),
        data=data,
    )


def _masks(found: Sequence[Detection]) -> Any:
    masks = [decode(one.mask) for one in found if one.mask is not None]
    return np.stack(masks) if len(masks) == len(found) else None
