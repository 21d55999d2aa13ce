"""Results as a data set in COCO's JSON format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from visionmesh.contracts import Detection, Result
from visionmesh.rle import decode


def to_coco(
    results: Iterable[Result],
    *,
    labels: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the detections of ``results`` with their images and classes, ready for `json.dump`.

    Images and detections are numbered from 1 in the order of ``results``. Each annotation has its
    ``score`` too, so ``["annotations"]`` is also what COCO's tools load as results. Boxes are
    ``[x, y, width, height]`` in pixels; areas are those of the masks where there are any. Results
    without an image or without detections, such as errors, are left out.

    Parameters
    ----------
    labels
        The classes: the first gets the number 1. By default those that occur, by name.
    names
        Of the images' files, by the id of the result; by default the id.

    Raises
    ------
    ValueError
        If a detection's label is not among ``labels``.
    """
    kept = [one for one in results if one.image is not None and one.detections is not None]
    if labels is None:
        labels = sorted({found.label for one in kept for found in one.detections or ()})
    numbers = {label: number for number, label in enumerate(labels, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, result in enumerate(kept, 1):
        assert result.image is not None
        images.append(
            {
                "id": number,
                "file_name": (names or {}).get(result.id, result.id),
                "width": result.image.width,
                "height": result.image.height,
            }
        )
        for found in result.detections or ():
            if found.label not in numbers:
                raise ValueError(f"{found.label!r} is not among the labels.")
            ids = {"id": len(annotations) + 1, "image_id": number}
            annotations.append({**ids, "category_id": numbers[found.label], **_shape(found)})
    categories = [{"id": number, "name": label} for label, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _shape(found: Detection) -> dict[str, Any]:
    left, top, right, bottom = found.box
    shape: dict[str, Any] = {
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
        "score": found.score,
    }
    if found.mask is not None:
        shape["area"] = int(decode(found.mask).sum())
        shape["segmentation"] = {"size": list(found.mask.size), "counts": found.mask.counts}
    elif found.corners is not None:
        shape["segmentation"] = [[value for corner in found.corners for value in corner]]
    return shape
