"""Detectors that tell boxes and scores apart, as two outputs or two parts of one: SSD and DETR."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.postprocess.decoders.detr import Detr, DetrParameters
from services.postprocess.decoders.protocol import read_parameters
from services.postprocess.decoders.ssd import Ssd, SsdParameters, prior_boxes
from visionmesh.models.completing.candidates import (
    BOX,
    Candidates,
    Table,
    activated,
    cornered,
    corners,
    framed,
)
from visionmesh.models.completing.wiring import Wiring
from visionmesh.models.spec import ModelSpec

_BY_CLASS = [0, 2, 1]
_SEPARATE = 3
"""Dimensions of one image's boxes that have one of their own for the class: (A, 1, 4)."""


def ssd(wiring: Wiring, tables: Sequence[Table], spec: ModelSpec) -> Candidates:
    """Read (B, A, 4) or (B, A, 1, 4) boxes and (B, A, C) scores."""
    parameters = read_parameters(SsdParameters, spec)
    boxes, scores = tables
    labelled = Ssd(spec).labelled(scores.shape[-1])
    values = activated(wiring, scores.value, parameters.activation)
    values = wiring.part(values, labelled.start, labelled.stop, axis=2)
    classes = wiring.add("Transpose", values, perm=_BY_CLASS)
    return Candidates(_drawn(wiring, boxes, spec, parameters), classes, pairs=True)


def detr(wiring: Wiring, tables: Sequence[Table], spec: ModelSpec) -> Candidates:
    """Read (B, Q, 4) boxes and (B, Q, C) logits, or both in one (B, Q, 4 + C)."""
    parameters = read_parameters(DetrParameters, spec)
    if len(tables) == 1:
        (whole,) = tables
        rows = wiring.part(whole.value, 0, BOX, axis=2)
        logits = wiring.part(whole.value, BOX, None, axis=2)
    else:
        rows, logits = _rows(wiring, tables[0]), tables[1].value
    activation = Detr(spec).activation(tables[-1].shape, together=len(tables) == 1)
    scores = activated(wiring, logits, activation)
    if activation == "softmax":  # whose last class is no object
        scores = wiring.part(scores, 0, -1, axis=2)
    placed = framed(wiring, rows, spec.input, normalized=parameters.normalized)
    return Candidates(
        cornered(wiring, placed),
        wiring.add("Transpose", scores, perm=_BY_CLASS),
        pairs=activation != "softmax",
        final=True,
    )


def _drawn(wiring: Wiring, boxes: Table, spec: ModelSpec, parameters: SsdParameters) -> str:
    """Return the corners of SSD's boxes in input pixels."""
    rows, size = _rows(wiring, boxes), spec.input
    if parameters.order == "yx":
        rows = wiring.add("Gather", rows, wiring.whole([1, 0, 3, 2]), axis=2)
    if parameters.encoding == "offsets":
        centers, sizes = np.split(prior_boxes(size, parameters), 2, axis=1)
        moves = wiring.part(rows, 0, 2, axis=2), wiring.numbers(parameters.variances[:2] * sizes)
        grown = wiring.part(rows, 2, BOX, axis=2), wiring.numbers(parameters.variances[2:])
        factors = wiring.add("Exp", wiring.add("Mul", *grown))
        return corners(
            wiring,
            wiring.add("Add", wiring.add("Mul", *moves), wiring.numbers(centers)),
            wiring.add("Mul", factors, wiring.numbers(sizes)),
        )
    placed = framed(wiring, rows, size, normalized=parameters.normalized)
    return placed if parameters.encoding == "corners" else cornered(wiring, placed)


def _rows(wiring: Wiring, boxes: Table) -> str:
    """Return (B, A, 4) boxes."""
    if len(boxes.shape) < _SEPARATE:
        return boxes.value
    return wiring.add("Squeeze", boxes.value, wiring.whole([2]))
