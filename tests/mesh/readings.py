"""What the outputs of `tests.heads` say of a photo: in float64, and by none of the decoders' code.

A comparison returns the largest differences of a result from that, by what differs:

- ``score`` of a class or an object, ``edge`` of a box in pixels, ``value`` of an embedding,
  ``grey`` level of a heat-map;
- ``pixels``: share of the photo that is told otherwise, and ``doubt``: how far the output's values
  there are from saying the same;
- ``mask`` and ``likelihood``: the same for the mask of an object, in likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.preprocess.pixels import Prepared
from tests import heads
from visionmesh import rle
from visionmesh.contracts import Result, Rle
from visionmesh.models.spec import ModelSpec

Floats = NDArray[np.float64]
Differences = dict[str, float]


@dataclass(frozen=True)
class Reading:
    """The outputs for one photo, without the batch dimension."""

    spec: ModelSpec
    outputs: Mapping[str, Floats]
    facts: Prepared

    @property
    def only(self) -> Floats:
        (output,) = self.outputs.values()
        return output

    def spread(self, maps: Floats, width: int, height: int) -> Floats:
        """Return maps (..., h, w) over the input at the pixels of a picture of the whole photo."""
        place, (rows, columns) = self.facts.placement, maps.shape[-2:]
        down = _shares(height, self.facts.height, place.scale_y, place.offset_y)
        across = _shares(width, self.facts.width, place.scale_x, place.offset_x)
        wide = maps @ _between(across * columns / heads.WIDTH, columns).T
        spread: Floats = _between(down * rows / heads.HEIGHT, rows) @ wide
        return spread

    def on_photo(self, maps: Floats) -> Floats:
        return self.spread(maps, self.facts.width, self.facts.height)

    def back(self, points: Any) -> Floats:
        """Return points (..., 2) of the input in pixels of the photo, within it."""
        place = self.facts.placement
        photo = (np.asarray(points) - (place.offset_x, place.offset_y)) / (
            place.scale_x,
            place.scale_y,
        )
        return np.clip(photo, 0, (self.facts.width, self.facts.height))


Comparison = Callable[[Result, Reading, bytes | None], Differences]


class Found(NamedTuple):
    score: float
    label: str
    box: Floats
    logits: Floats | None = None
    """Of the mask's likelihood at each pixel of the photo."""


def one_object(result: Result, reading: Reading, png: bytes | None) -> Differences:
    """Compare with the object that grows surer with brightness, and is always at one place."""
    decoder, (x1, y1, x2, y2) = reading.spec.output.decoder, heads.BOX
    ((name, where),) = (
        (name, head.slope != 0)
        for name, head in heads.FAMILIES[decoder]().items()
        if isinstance(head, heads.Head) and head.slope.any()
    )
    score = float(reading.outputs[name][where][0])
    if decoder == "detr":
        score = float(_sigmoid(score))
    box = reading.back([(x1, y1), (x2, y2)]).reshape(4)
    largest = _compare_objects(result, [Found(score, "c5", box)])
    for found in result.detections or () if decoder == "obb" else ():
        corners = reading.back([(x1, y1), (x1, y2), (x2, y1), (x2, y2)])
        apart = np.abs(np.array(found.corners)[:, None] - corners).max(axis=2)
        largest["edge"] = max(largest["edge"], _most(apart.min(axis=0)))
    return largest


def objects_with_masks(result: Result, reading: Reading, png: bytes | None) -> Differences:
    boxes, prototypes = reading.outputs["output0"], reading.outputs["output1"]
    wanted = []
    for place in np.flatnonzero(boxes[4 : -heads.MASKS].max(axis=0)):
        x, y, width, height, *scores = boxes[: -heads.MASKS, place]
        corners = (x - width / 2, y - height / 2), (x + width / 2, y + height / 2)
        plane = np.tensordot(boxes[-heads.MASKS :, place], prototypes, axes=1)
        box, logits = reading.back(corners).reshape(4), reading.on_photo(plane)
        wanted.append(Found(float(max(scores)), f"c{np.argmax(scores)}", box, logits))
    return _compare_objects(result, wanted)


def classes(result: Result, reading: Reading, png: bytes | None) -> Differences:
    powers = np.exp(reading.only.reshape(-1))
    scores = powers / powers.sum()
    best = np.argsort(-scores)[: reading.spec.output.top_k].tolist()
    told = result.classes or ()
    assert [one.label for one in told] == [reading.spec.labels[index] for index in best]
    return {"score": _most([one.score for one in told] - scores[best])}


def vector(result: Result, reading: Reading, png: bytes | None) -> Differences:
    assert result.embedding is not None
    return {"value": _most(result.embedding - reading.only.reshape(-1))}


def parts(result: Result, reading: Reading, png: bytes | None) -> Differences:
    """Compare with the class of the largest score at each pixel."""
    scores = reading.on_photo(reading.only)
    assert result.regions is not None
    told = np.full(scores.shape[1:], -1)
    for region in result.regions:
        mask = _pixels(region.mask, told.shape)
        assert (told[mask] == -1).all(), "no pixel has two classes"
        told[mask] = reading.spec.labels.index(region.label)
    assert (told >= 0).all(), "each pixel has a class"
    lost = scores.max(axis=0) - np.take_along_axis(scores, told[None], axis=0)[0]
    return {"pixels": float((lost > 0).mean()), "doubt": _most(lost)}


def oddness(result: Result, reading: Reading, png: bytes | None) -> Differences:
    """Compare the score, what lies over the threshold, and the heat-map."""
    output, plane = reading.spec.output.parameters, reading.only[0]
    low, threshold, high = (output[name] for name in ("low", "threshold", "high"))
    rows, columns = plane.shape
    y, x = np.mgrid[0.5:rows, 0.5:columns] * heads.HEIGHT / rows
    place, facts = reading.facts.placement, reading.facts
    inside = (x >= place.offset_x) & (x < place.offset_x + facts.width * place.scale_x)
    inside &= (y >= place.offset_y) & (y < place.offset_y + facts.height * place.scale_y)
    score = float(np.interp(plane[inside].max(), (low, threshold, high), (0, 0.5, 1)))
    scores = {one.label: one.score for one in result.classes or ()}
    values = reading.on_photo(plane)
    mask = np.zeros(values.shape, bool)
    for region in result.regions or ():
        mask |= _pixels(region.mask, values.shape)
    wrong = mask != (values >= threshold)
    assert png is not None
    grey = np.asarray(Image.open(BytesIO(png))).astype(float)
    wanted = (reading.spread(plane, *grey.shape[::-1]) - low) / (high - low) * 255
    return {
        "score": max(abs(scores["anomalous"] - score), abs(scores["normal"] - 1 + score)),
        "grey": _most(grey - np.rint(wanted.clip(0, 255))),
        "pixels": float(wrong.mean()),
        "doubt": _most(values[wrong] - threshold),
    }


COMPARISONS: Mapping[str, Comparison] = dict.fromkeys(heads.FAMILIES, one_object) | {
    "anomaly": oddness,
    "embedding": vector,
    "semantic": parts,
    "softmax": classes,
    "yolov8_seg": objects_with_masks,
}


def _compare_objects(result: Result, wanted: list[Found]) -> Differences:
    sure = sorted((one for one in wanted if one.score >= 0.25), key=lambda one: -one.score)
    told, largest = result.detections or (), {"score": 0.0, "edge": 0.0}
    assert [one.label for one in told] == [one.label for one in sure]
    for one, other in zip(told, sure, strict=True):
        found = {"score": abs(one.score - other.score), "edge": _most(one.box - other.box)}
        if other.logits is not None:
            assert one.mask is not None
            found |= _compare_masks(_pixels(one.mask, other.logits.shape), one.box, other.logits)
        largest |= {key: max(value, largest.get(key, 0.0)) for key, value in found.items()}
    return largest


def _compare_masks(mask: NDArray[np.bool_], box: tuple[float, ...], logits: Floats) -> Differences:
    """Compare with where the logit of a pixel with its centre in the box is over 0."""
    rows, columns = (np.arange(count) + 0.5 for count in mask.shape)
    down = (box[1] <= rows) & (rows < box[3])
    across = (box[0] <= columns) & (columns < box[2])
    assert not mask[~down].any()
    assert not mask[:, ~across].any()
    wrong = (mask != (logits > 0)) & down[:, None] & across
    return {"mask": float(wrong.mean()), "likelihood": _most(_sigmoid(logits[wrong]) - 0.5)}


def _pixels(mask: Rle, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    assert mask.size == shape
    return rle.decode(mask)


def _shares(count: int, extent: int, scale: float, offset: float) -> Floats:
    """Return the centres of ``count`` pixels that cover ``extent``, in input pixels."""
    return (np.arange(count) + 0.5) * extent / count * scale + offset


def _between(at: Floats, cells: int) -> Floats:
    """Return the shares (N, cells) that places between the cells' centres have of each cell."""
    return np.stack([np.interp(at - 0.5, range(cells), own) for own in np.eye(cells)], axis=1)


def _sigmoid(values: Any) -> Floats:
    likelihood: Floats = 1 / (1 + np.exp(-values))
    return likelihood


def _most(differences: Any) -> float:
    return float(np.abs(differences).max(initial=0))
