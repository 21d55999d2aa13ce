"""How an image becomes the size that a model takes: letterbox, crop, stretch.

Every mode interpolates bilinearly without a prefilter (OpenCV's ``INTER_LINEAR``), which is what
the YOLO families letterbox with in training and what a GPU computes in one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor
from typing import Final, NamedTuple

import cv2

from services.preprocess.formats.header import Pixels
from visionmesh.contracts import Placement
from visionmesh.models.spec import InputSpec, Resize

# Images are resized in several threads at once; threads within one would only contend.
cv2.setNumThreads(1)

_MOST_OVERHANG: Final = 8
"""Inputs' lengths that a covering picture may have: 1 by 5000 would become 416 by 2 million."""


class Plan(NamedTuple):
    """Where the whole resized picture lies, in input pixels; it may lie partly outside."""

    width: int
    height: int
    x: int
    y: int

    def placement(self, original: tuple[int, int]) -> Placement:
        """Return the same in terms of an ``original`` of (width, height)."""
        return Placement(
            scale_x=self.width / original[0],
            scale_y=self.height / original[1],
            offset_x=self.x,
            offset_y=self.y,
        )


def _letterbox(width: int, height: int, spec: InputSpec) -> Plan:
    across, down = _scaled(width, height, spec, by_width=_is_wider(width, height, spec))
    if spec.anchor == "top_left":
        return Plan(across, down, 0, 0)
    return Plan(across, down, (spec.width - across) // 2, (spec.height - down) // 2)


def _crop(width: int, height: int, spec: InputSpec) -> Plan:
    across, down = _scaled(width, height, spec, by_width=not _is_wider(width, height, spec))
    return Plan(across, down, -((across - spec.width) // 2), -((down - spec.height) // 2))


def _is_wider(width: int, height: int, spec: InputSpec) -> bool:
    return width * spec.height >= height * spec.width


def _scaled(width: int, height: int, spec: InputSpec, *, by_width: bool) -> tuple[int, int]:
    """Return the size at which one side is the input's and the aspect ratio stays."""
    if by_width:
        return spec.width, max(1, _quotient(height * spec.width, width))
    return max(1, _quotient(width * spec.height, height)), spec.height


def _quotient(dividend: int, divisor: int) -> int:
    """Return the rounded quotient, halves to the even side, exactly as a graph can do it, too."""
    quotient, rest = divmod(dividend, divisor)
    return quotient + (2 * rest + quotient % 2 > divisor)


def _stretch(width: int, height: int, spec: InputSpec) -> Plan:
    return Plan(spec.width, spec.height, 0, 0)


MODES: Final[dict[Resize, Callable[[int, int, InputSpec], Plan]]] = {
    Resize.LETTERBOX: _letterbox,
    Resize.CROP: _crop,
    Resize.STRETCH: _stretch,
}


def plan(original: tuple[int, int], spec: InputSpec) -> Plan:
    """Return where an ``original`` of (width, height) comes to lie in the input of ``spec``."""
    return MODES[spec.resize](*original, spec)


def fit(pixels: Pixels, original: tuple[int, int], spec: InputSpec, out: Pixels) -> Placement:
    """Write the resized picture and its padding into ``out``; nothing else is written.

    Parameters
    ----------
    pixels
        ``(h, w, C) uint8``: the original, or the same picture decoded smaller.
    original
        (width, height) in pixels, upright; the placement is in terms of these.
    out
        ``(spec.height, spec.width, C) uint8``, contiguous.
    """
    return draw(pixels, plan(original, spec), original, spec.pad, out)


def draw(
    pixels: Pixels, place: Plan, original: tuple[int, int], pad: int, out: Pixels
) -> Placement:
    """Do what `fit` does, by a plan that is known already."""
    height, width = out.shape[:2]
    if place.width > width or place.height > height:
        _draw_covering(pixels, place, out)
    else:
        right, bottom = place.x + place.width, place.y + place.height
        cv2.resize(
            pixels,
            (place.width, place.height),
            dst=out[place.y : bottom, place.x : right],
            interpolation=cv2.INTER_LINEAR,
        )
        if place.height < height:
            out[: place.y] = pad
            out[bottom:] = pad
        if place.width < width:
            out[:, : place.x] = pad
            out[:, right:] = pad
    return place.placement(original)


def _draw_covering(pixels: Pixels, place: Plan, out: Pixels) -> None:
    height, width = out.shape[:2]
    down = side(pixels.shape[0], place.height, place.y, height)
    across = side(pixels.shape[1], place.width, place.x, width)
    part = pixels[down.first : down.first + down.used, across.first : across.first + across.used]
    resized = cv2.resize(part, (across.size, down.size), interpolation=cv2.INTER_LINEAR)
    y, x = -down.at, -across.at
    out[:] = resized[y : y + height, x : x + width].reshape(out.shape)


class Side(NamedTuple):
    """Along one axis: ``used`` pixels from ``first`` become ``size``, from ``at`` on."""

    first: int
    used: int
    size: int
    at: int
    """In input pixels; negative if what comes before is cut off."""


def side(stored: int, scaled: int, at: int, wanted: int) -> Side:
    """Return how ``stored`` pixels become ``scaled`` of which ``wanted`` are seen, from -``at`` on.

    Of a picture that overhangs very far only the part that is needed is resized.
    """
    if scaled <= wanted * _MOST_OVERHANG:
        return Side(0, stored, scaled, at)
    scale = scaled / stored
    first = max(0, floor(-at / scale) - 1)
    count = min(stored, ceil((wanted - at) / scale) + 1) - first
    cut = round(-at - first * scale)
    return Side(first, count, max(cut + wanted, round(count * scale)), -cut)
