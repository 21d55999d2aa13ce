"""Whether another way to run a network still gives the same answers, boxes in the same places."""

from __future__ import annotations

from collections.abc import Sequence

from visionmesh.models.agreement import MOST_LOST, Seen, alike
from visionmesh.workbench import Sample

LEAST_AGREEMENT = 1 - MOST_LOST
"""Of answers, where only those can be compared."""
EDGE_PIXELS = 8.0
"""By how far an edge of the same box may lie elsewhere, in pixels of the network's input: a cell of
the finest grid that detectors usually have."""


def agreement(samples: Sequence[Sample], ours: Sequence[Seen], theirs: Sequence[Seen]) -> float:
    """Return which share of all answers is the same, from 0 to 1.

    See `visionmesh.models.agreement.likeness`; of boxes each edge must also lie within
    `EDGE_PIXELS`.
    """
    equal = compared = 0.0
    for sample, one, other in zip(samples, ours, theirs, strict=True):
        place = sample.facts.placement
        reach = (EDGE_PIXELS / place.scale_x, EDGE_PIXELS / place.scale_y)
        same, of = alike(one, other, reach=reach)
        equal, compared = equal + same, compared + of
    return equal / compared if compared else 1.0
