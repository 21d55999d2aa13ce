"""How near one way to run a network comes to another, in numbers and in answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from visionmesh.contracts import Answer, Detection, Frozen, Heatmap, Region
from visionmesh.rle import decode

SAME_OBJECT_IOU = 0.5
"""Boxes that overlap at least so much mean the same object."""

SCORE_SLACK = 0.05
"""A box that scores just enough here may score so much less there and still be the same."""

MOST_LOST = 0.01
"""Of the accuracy, where the truth is known, else of the equal answers; more is not right."""

Arrays = Mapping[str, npt.NDArray[Any]]


Reach = tuple[float, float]
"""Pixels of the image, across and down."""


class Seen(NamedTuple):
    """What was made of one image."""

    outputs: Arrays
    """Empty if the network failed."""
    answer: Answer | None
    """`None` if none can be made of the outputs."""
    wider: Answer | None
    """With boxes that score up to `SCORE_SLACK` less than is asked for, too."""


class Agreement(Frozen):
    """A comparison with a reference over some images."""

    images: int
    answers: float
    """How much of them is equal, from 0 to 1; see `likeness`. A box that scores just enough in one
    answer may score just too little in the other."""
    values: int
    """Numbers in outputs of the same name and shape, of which the errors are."""
    max_error: float
    """Of any output value."""
    mean_error: float
    largest: float
    """The largest absolute output value of the reference: what an error is to be seen against."""
    broken: int
    """Images with a NaN or an infinity where the reference is finite, or without an answer."""
    unanswered: int
    """Images that the reference itself has no answer for."""


class Tally:
    """Adds up comparisons, image by image."""

    def __init__(self) -> None:
        self._images = self._values = self._broken = self._unanswered = 0
        self._equal = self._compared = 0.0
        self._sum = self._max = self._largest = 0.0

    def add(self, wanted: Seen, given: Seen) -> None:
        """Compare what was seen in one image.

        One that the reference has no answer for says nothing of the other's answer.
        """
        sound = self._add_outputs(wanted.outputs, given.outputs)
        self._images += 1
        if wanted.answer is None:
            self._unanswered += 1
            return
        self._broken += not sound or given.answer is None
        equal, compared = alike(wanted, given) if sound else (0.0, 1.0)
        self._equal += equal
        self._compared += compared

    def _add_outputs(self, expected: Arrays, outputs: Arrays) -> bool:
        """Compare arrays of the same name and shape; say whether all that should be is finite."""
        sound = True
        for name, array in expected.items():
            other = outputs.get(name)
            if other is None or other.shape != array.shape:
                continue
            wanted, got = array.astype(np.float64), other.astype(np.float64)
            sound &= not (np.isfinite(wanted) & ~np.isfinite(got)).any()
            both = np.isfinite(wanted) & np.isfinite(got)
            error = np.abs(wanted[both] - got[both])
            self._values += error.size
            self._sum += float(error.sum())
            self._max = max(self._max, float(error.max(initial=0)))
            self._largest = max(self._largest, float(np.abs(wanted[both]).max(initial=0)))
        return sound

    def result(self) -> Agreement:
        return Agreement(
            images=self._images,
            answers=self._equal / self._compared if self._compared else 1.0,
            values=self._values,
            max_error=self._max,
            mean_error=self._sum / self._values if self._values else 0.0,
            largest=self._largest,
            broken=self._broken,
            unanswered=self._unanswered,
        )


def first_class(answer: Answer | None) -> str | None:
    """Return the label of the likeliest class, `None` if the answer has no classes."""
    return answer.classes[0].label if answer and answer.classes else None


def accuracy(said: Sequence[str | None], truths: Sequence[str | None]) -> float | None:
    """Return on which share of images ``said``, their `first_class`, is the truth.

    `None` if a truth is not known, or the answers are no classes.
    """
    if None in truths or not any(said):
        return None
    return sum(one == truth for one, truth in zip(said, truths, strict=True)) / len(truths)


def likeness(reference: Answer, other: Answer) -> tuple[float, float]:
    """Return how much of two answers is equal, and how much there is to compare.

    The first classes count 1 if they are the same; boxes count as 2 x pairs of all boxes of both,
    and pixels of regions alike; an embedding counts as the cosine between the two, and a heat-map
    as 1 - mean difference, as a share of the reference's range. Of classes and a heat-map the less
    alike counts; a heat-map that travelled without its PNG does not.
    """
    if reference.classes is not None:
        same = float(first_class(reference) == first_class(other))
        return min(same, _heat(reference.heatmap, other.heatmap)), 1.0
    if reference.detections is not None:
        theirs = other.detections or ()
        boxes = len(reference.detections) + len(theirs)
        return 2.0 * pairs(reference.detections, theirs), float(boxes)
    if reference.regions is not None:
        return _pixels(reference.regions, other.regions or ())
    if reference.embedding is not None:
        return _cosine(reference.embedding, other.embedding or ()), 1.0
    if reference.heatmap is not None:
        return _heat(reference.heatmap, other.heatmap), 1.0
    return 1.0, 1.0


def alike(wanted: Seen, given: Seen, *, reach: Reach | None = None) -> tuple[float, float]:
    """Return the `likeness` of two answers, with `SCORE_SLACK`; see `pairs` for ``reach``.

    Two images without an answer are alike.
    """
    if wanted.answer is None or given.answer is None:
        return float(wanted.answer is given.answer), 1.0
    ours, theirs = wanted.answer.detections, given.answer.detections
    if ours is None or theirs is None:
        return likeness(wanted.answer, given.answer)
    wider_ours = (wanted.wider or wanted.answer).detections or ()
    wider_theirs = (given.wider or given.answer).detections or ()
    equal = pairs(ours, wider_theirs, reach=reach) + pairs(theirs, wider_ours, reach=reach)
    return float(equal), float(len(ours) + len(theirs))


def pairs(
    ours: tuple[Detection, ...], theirs: tuple[Detection, ...], *, reach: Reach | None = None
) -> int:
    """Return how many boxes of the same label are each other's best match, and so are their masks.

    Masks are the same from `SAME_OBJECT_IOU` on, as boxes are. With ``reach`` no edge may lie
    further off than that.
    """
    if not ours or not theirs:
        return 0
    same = np.equal.outer([one.label for one in ours], [one.label for one in theirs])
    here, there = _boxes(ours), _boxes(theirs)
    if reach is not None:
        same &= (np.abs(here[:, None] - there[None]) <= (*reach, *reach)).all(axis=2)
    overlap = _iou(here, there) * same
    best = overlap.argmax(axis=1)
    mutual = overlap.argmax(axis=0)[best] == np.arange(len(ours))
    near = overlap[np.arange(len(ours)), best] >= SAME_OBJECT_IOU
    paired = np.flatnonzero(mutual & near)
    return sum(_same_mask(ours[number], theirs[best[number]]) for number in paired)


def _same_mask(one: Detection, other: Detection) -> bool:
    """Say whether two objects cover the same pixels, as far as both have masks."""
    if one.mask is None or other.mask is None:
        return True
    ours, theirs = decode(one.mask), decode(other.mask)
    return bool((ours & theirs).sum() >= SAME_OBJECT_IOU * (ours | theirs).sum())


def _boxes(found: tuple[Detection, ...]) -> npt.NDArray[np.float64]:
    return np.array([one.box for one in found], np.float64)


def _iou(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    common = np.maximum(high - low, 0).prod(axis=2)
    area, other = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (ours, theirs))
    union = area[:, None] + other[None, :] - common
    overlap: npt.NDArray[np.float64] = np.divide(
        common, union, out=np.zeros_like(common), where=union > 0
    )
    return overlap


def _pixels(ours: Iterable[Region], theirs: Iterable[Region]) -> tuple[float, float]:
    masks = {region.label: decode(region.mask) for region in ours}
    others = {region.label: decode(region.mask) for region in theirs}
    common = sum((masks[label] & others[label]).sum() for label in masks.keys() & others.keys())
    pixels = sum(mask.sum() for mask in (*masks.values(), *others.values()))
    return 2.0 * float(common), float(pixels)


def _cosine(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    if len(ours) != len(theirs):
        return 0.0
    a, b = np.array(ours), np.array(theirs)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return max(0.0, float(a @ b) / length) if length else float((a == b).all())


def _heat(ours: Heatmap | None, theirs: Heatmap | None) -> float:
    if ours is None or not ours.png:
        return 1.0
    if theirs is None or (ours.width, ours.height) != (theirs.width, theirs.height):
        return 0.0
    difference = float(np.abs(_values(ours) - _values(theirs)).mean())
    span = ours.high - ours.low
    return max(0.0, 1 - difference / span) if span else float(difference == 0)


def _values(heat: Heatmap) -> npt.NDArray[np.float64]:
    grey = cv2.imdecode(np.frombuffer(heat.png, np.uint8), cv2.IMREAD_GRAYSCALE)
    return heat.low + np.asarray(grey, np.float64) / 255 * (heat.high - heat.low)
