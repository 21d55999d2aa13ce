"""What every box detector shares: candidates as features, and their way to detections."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from services.postprocess.decoders.protocol import Array, Arrays, Parameters, label, require_finite
from services.postprocess.features import FeaturesError
from services.postprocess.nms import Overlap, ranking, soften, suppress, upright
from visionmesh.contracts import Answer, Detection, Params, Placement
from visionmesh.models.spec import InputSpec, ModelSpec

MAX_CANDIDATES = 1000
"""Boxes of one image that reach suppression, the best of them: an image that has more is noise, and
1,000 upright ones keep the features below 20 KB."""

BOX = 4
"""Values of a box."""

_BOX_DECIMALS = 2
_SCORE_DECIMALS = 6
"""A hundredth of a pixel and what a float32 holds: more digits would only lengthen the results."""


class DetectorParameters(Parameters):
    floor: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Boxes that score less are dropped for good, unless the model's own confidence is lower still.
    0.05 keeps a few dozen boxes of a photo; mean average precision is measured with 0.001."""
    sigma: Annotated[float, Field(gt=0.0)] = 0.5
    """Of soft-NMS: a box that a better one overlaps by o keeps exp(-o² / sigma) of its score."""


class SizedParameters(DetectorParameters):
    normalized: bool = False
    """Boxes are fractions of the input's width and height, not its pixels."""


class Chosen(NamedTuple):
    """The boxes of one answer as columns, the best first."""

    rows: Array
    """(K,) intp: their places among the candidates."""
    scores: Array
    """(K,), after soft-NMS if the model wants it."""
    classes: Array
    boxes: Array
    """(K, 4) ``x1, y1, x2, y2`` in pixels of the original, clipped to it."""


def strongest(scores: Array, floor: float) -> Array:
    """Return the indices of the scores from ``floor`` on, the `MAX_CANDIDATES` best, ascending."""
    sure = np.flatnonzero(scores >= floor)
    if len(sure) > MAX_CANDIDATES:
        best = np.argsort(-scores[sure], kind="stable")[:MAX_CANDIDATES]
        sure = np.sort(sure[best])
    return sure


def strongest_pairs(scores: Array, floor: float) -> tuple[Array, Array, Array]:
    """Return boxes, classes and scores where (A, C) ``scores`` are strongest: any class of a box
    may be among them, not only its best."""
    sure = strongest(scores.reshape(-1), floor)
    boxes, classes = np.divmod(sure, max(scores.shape[1], 1))
    return boxes, classes, scores[boxes, classes]


def frame(size: InputSpec, *, normalized: bool) -> Array:
    """Return what takes ``x, y, x, y`` to input pixels, (4,) float32."""
    width, height = (size.width, size.height) if normalized else (1, 1)
    return np.array((width, height, width, height), np.float32)


def require_no_nms(spec: ModelSpec) -> None:
    """Raise `ValueError` if boxes are to be suppressed that a network chose for good."""
    if spec.output.nms in {"agnostic", "soft"}:
        raise ValueError(f"nms {spec.output.nms}: these boxes are not suppressed; leave it out")


def to_features(boxes: Array, scores: Array, classes: Array, **columns: Array) -> dict[str, Array]:
    """Return the features of a detector; raise `Reject` (model_failed) if a box is not finite.

    ``boxes`` is (N, 4) ``x1, y1, x2, y2`` in input pixels; ``scores`` and ``classes`` are (N,);
    ``columns`` are (N, K): what else belongs to each box.
    """
    for values in (boxes, *columns.values()):
        require_finite(values)
    return {
        "boxes": boxes.astype(np.float32, copy=False),
        "scores": np.minimum(scores, 1, dtype=np.float32),
        "classes": classes.astype(np.uint16),
        **{name: values.astype(np.float32, copy=False) for name, values in columns.items()},
    }


def corners(centers: Array, sizes: Array) -> Array:
    """Return (N, 4) ``x1, y1, x2, y2`` of boxes given by (N, 2) centres and sizes."""
    with np.errstate(over="ignore", invalid="ignore"):  # `to_features` refuses what is not finite
        half = sizes / 2
        return np.concatenate((centers - half, centers + half), axis=1)


class Detector:
    """The second step of a decoder whose features are `to_features`.

    A decoder whose boxes carry more (mask coefficients, an angle) names those ``columns``, gives
    them to `to_features`, and overrides `details` to make fields of `Detection` out of them.
    Features that belong to the whole image, such as mask prototypes, may stand beside the columns.
    One whose boxes are not compared as upright rectangles says which column holds its ``shapes``
    and how they ``overlap``.
    """

    def __init__(
        self,
        spec: ModelSpec,
        parameters: DetectorParameters,
        *,
        columns: Collection[str] = (),
        shapes: str = "boxes",
        overlap: Overlap = upright,
        nms: Literal["per_class", "agnostic", "soft", "none"] | None = None,
    ) -> None:
        self._spec = spec
        self._tensor = parameters.tensor
        self._sigma = parameters.sigma
        self._columns = frozenset(columns)
        self._shapes = shapes
        self._overlap = overlap
        self.nms = nms or spec.output.nms
        """How boxes that cover each other are suppressed."""
        self._class_confidence = _class_confidence(spec)
        self._class_count = str(len(spec.labels) or "C")
        """For a sentence that says what does not fit."""
        self.floor = min(parameters.floor, spec.output.confidence, *self._class_confidence.values())

    def answer(
        self, features: Arrays, params: Params, placement: Placement, width: int, height: int
    ) -> Answer:
        """Return the detections: sure enough, not covered by better ones, in the original's pixels.

        Suppression sees the boxes as the network drew them; only then are they clipped to the
        image, and dropped if less than a hundredth of a pixel is left. Sorted by score; equal ones
        keep the network's order.
        """
        self._check_features(features)
        survivors = self._suppress(features, params)
        return self._tell(features, survivors, params, placement, (width, height))

    def answer_kept(
        self,
        features: Arrays,
        params: Params,
        placement: Placement,
        width: int,
        height: int,
        *,
        kept: Array,
    ) -> Answer:
        """Return what `answer` does, knowing which candidates it would keep with these ``params``.

        ``kept`` is (K,) intp: their places among the candidates, best first.
        """
        survivors = kept, features["scores"][kept]
        return self._tell(features, survivors, params, placement, (width, height))

    def _tell(
        self,
        features: Arrays,
        survivors: tuple[Array, Array],
        params: Params,
        placement: Placement,
        size: tuple[int, int],
    ) -> Answer:
        limit = params.max_detections or self._spec.output.max_detections
        chosen = _place(features, survivors, placement, size, limit)
        details = self.details(features, chosen, placement, *size)
        found = zip(
            chosen.classes.tolist(),
            chosen.scores.astype(np.float64).round(_SCORE_DECIMALS).tolist(),
            chosen.boxes.tolist(),
            *details.values(),
            strict=True,
        )
        return Answer(
            detections=tuple(
                Detection(
                    label=label(self._spec.labels, index),
                    score=score,
                    box=tuple(box),
                    **dict(zip(details, more, strict=True)),
                )
                for index, score, box, *more in found
            )
        )

    def details(
        self, features: Arrays, chosen: Chosen, placement: Placement, width: int, height: int
    ) -> Mapping[str, Sequence[Any]]:
        """Return further fields of `Detection` by name, with a value for each ``chosen`` box.

        A column's values for them are ``features[name][chosen.rows]``.
        """
        return {}

    def _fits(self, scores: int) -> bool:
        """Say whether a box can have so many: one for each label, or any if the model has none."""
        labels = len(self._spec.labels)
        return scores == labels if labels else scores > 0

    def iou(self, params: Params) -> float:
        """Return how much of a box a better one may cover."""
        return self._spec.output.iou if params.iou is None else params.iou

    def least(self, params: Params, classes: Array) -> Array:
        """Return the least score of each box, in its own precision; the producer's word is last."""
        if params.confidence is not None:
            return np.full(len(classes), params.confidence, np.float32)
        least = np.full(len(classes), self._spec.output.confidence, np.float32)
        for index, confidence in self._class_confidence.items():
            least[classes == index] = confidence
        return least

    def _suppress(self, features: Arrays, params: Params) -> tuple[Array, Array]:
        """Return the candidates that are sure enough and stay, best first, and their scores."""
        least = self.least(params, features["classes"])
        sure = np.flatnonzero(features["scores"] >= least)
        shapes, scores, classes = (
            features[name][sure] for name in (self._shapes, "scores", "classes")
        )
        if self.nms == "soft":
            kept, scores = soften(
                shapes, scores, classes, least=least[sure], sigma=self._sigma, overlap=self._overlap
            )
            return sure[kept], scores
        if self.nms == "none":
            kept = ranking(scores)
        else:
            rivals = np.zeros_like(classes) if self.nms == "agnostic" else classes
            kept = suppress(shapes, scores, rivals, iou=self.iou(params), overlap=self._overlap)
        return sure[kept], scores[kept]

    def _check_features(self, features: Arrays) -> None:
        """Raise `FeaturesError` unless ``features`` are candidates of this detector."""
        try:
            boxes, scores, classes = features["boxes"], features["scores"], features["classes"]
            columns = [features[name] for name in self._columns]
        except KeyError as error:
            raise FeaturesError(f"a detector's features have {error}") from error
        count = len(scores)
        if boxes.shape != (count, 4) or scores.shape != (count,) or classes.shape != (count,):
            raise FeaturesError("the features are not candidates of a detector")
        if any(values.ndim != 2 or len(values) != count for values in columns):  # noqa: PLR2004 - rows and their values
            raise FeaturesError("the features do not tell as much of each box")
        labels = self._spec.labels
        if labels and count and classes.max() >= len(labels):
            raise FeaturesError(f"the features know more classes than {self._spec.name!r}")


def _place(
    features: Arrays,
    kept: tuple[Array, Array],
    placement: Placement,
    size: tuple[int, int],
    limit: int,
) -> Chosen:
    """Return the first ``limit`` of those ``kept`` that lie in an original of this ``size``."""
    rows, scores = kept
    placed = unplace(features["boxes"][rows], placement)
    placed = np.clip(placed, 0, size * 2).round(_BOX_DECIMALS)
    inside = np.flatnonzero((placed[:, 2:] > placed[:, :2]).all(axis=1))[:limit]
    classes = features["classes"][rows[inside]]
    return Chosen(rows[inside], scores[inside], classes, placed[inside])


def unplace(boxes: Array, placement: Placement) -> Array:
    """Return points of the input, ``x, y`` in turn on the last axis, in pixels of the original."""
    pairs = boxes.shape[-1] // 2
    offset = np.array((placement.offset_x, placement.offset_y) * pairs)
    scale = np.array((placement.scale_x, placement.scale_y) * pairs)
    original: Array = (boxes - offset) / scale
    return original


def _class_confidence(spec: ModelSpec) -> dict[int, float]:
    """Return the least scores by class; raise `ValueError` for a class that the model lacks."""
    names = {name: index for index, name in enumerate(spec.labels)}
    found = {}
    for name, confidence in spec.output.class_confidence.items():
        if name in names:
            found[names[name]] = confidence
        elif not names and name.isdecimal():
            found[int(name)] = confidence
        else:
            raise ValueError(f"class_confidence names {name!r}, which is not among the labels")
    return found
