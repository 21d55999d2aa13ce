"""The work of one image, in one call that a worker thread makes."""

from __future__ import annotations

from typing import NamedTuple

from services.preprocess.decode import open_image
from services.preprocess.formats.header import Data, Pixels
from services.preprocess.resize import draw, plan
from services.preprocess.samples import to_color
from visionmesh.contracts import Placement
from visionmesh.errors import Code, Reject
from visionmesh.models.spec import InputSpec


class Prepared(NamedTuple):
    """What is known of an image once its pixels lie in the model's input."""

    width: int
    """Of the original, upright, in pixels."""
    height: int
    placement: Placement


def prepare_pixels(given: Pixels, spec: InputSpec, out: Pixels, *, max_pixels: int) -> Prepared:
    """Do what `prepare` does with ``given``, ``(H, W, 3) uint8``, RGB.

    Raises `Reject` (image_too_large).
    """
    original = size_of(given, max_pixels=max_pixels)
    pixels = to_color(given, "RGB", spec.color)
    return Prepared(*original, draw(pixels, plan(original, spec), original, spec.pad, out))


def size_of(given: Pixels, *, max_pixels: int) -> tuple[int, int]:
    """Return (width, height); raise `Reject` (image_too_large)."""
    height, width = given.shape[:2]
    if width * height > max_pixels:
        raise Reject(
            Code.IMAGE_TOO_LARGE,
            f"The image has {width} by {height} pixels, the limit is {max_pixels}: send a smaller "
            "one, or raise preprocess.max_pixels.",
        )
    return width, height


def prepare(encoded: Data, spec: InputSpec, out: Pixels, *, max_pixels: int) -> Prepared:
    """Decode ``encoded`` and write it into ``out``, ``(spec.height, spec.width, C) uint8``.

    The interpreter lock is free while pixels are unpacked and resized, and ``encoded`` is not
    copied. After an error ``out`` may hold part of the picture.

    Raises
    ------
    Reject
        empty_body, not_an_image, unsupported_format, broken_image, image_empty, image_too_large.
    """
    image = open_image(encoded, max_pixels=max_pixels)
    original = image.width, image.height
    place = plan(original, spec)
    pixels = image.unpack(spec.color, (place.height, place.width))
    return Prepared(*original, draw(pixels, place, original, spec.pad, out))
