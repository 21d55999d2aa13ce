"""From images of any size to the input's, and with boxes the way back, in ONNX operators.

All sizes are whole numbers: runtimes such as TensorRT compute shapes with nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

from onnx import TensorProto

from visionmesh.models.completing.wiring import Wiring
from visionmesh.models.spec import InputSpec, Resize


class Resized(NamedTuple):
    """Names of resized pictures, and of where they lie: ``(2,) int64``, across and down."""

    pixels: str
    """(N, C, height, width) float32: whole brightnesses, the padding, too."""
    original: str
    """Size of the images."""
    size: str
    """Of the whole resized picture, in pixels of the input."""
    offset: str | None
    """Of its upper left corner; negative where it is cut. `None`: it covers the input."""


def write_resize(wiring: Wiring, image: str, values: str, spec: InputSpec) -> Resized:
    """Bring ``values``, ``image`` as (N, C, H, W) float32, to the input's size as ``spec`` says.

    Bilinearly without a prefilter, and rounded, as uint8 pixels are.
    """
    original = wiring.add("Gather", wiring.add("Shape", image), wiring.whole([2, 1]), axis=0)
    target = wiring.whole([spec.width, spec.height])
    if spec.resize is Resize.STRETCH:
        pixels = _interpolated(wiring, values, target)
        return Resized(pixels, original, size=target, offset=None)
    size = _scaled(wiring, original, spec)
    pixels = _interpolated(wiring, values, size)
    if spec.resize is Resize.CROP:
        cut = wiring.add("Div", wiring.add("Sub", size, target), wiring.whole(2))
        pixels = _cut(wiring, pixels, cut, target)
        offset = wiring.add("Neg", cut)
    else:
        rest = wiring.add("Sub", target, size)
        centered = spec.anchor == "center"
        offset = wiring.add("Div", rest, wiring.whole(2)) if centered else wiring.whole([0, 0])
        pixels = _padded(wiring, pixels, offset, rest, spec.pad)
    # Without this the sizes of all that the network computes would be unknown to a compiler.
    known = wiring.whole([0, spec.channels, spec.height, spec.width])
    return Resized(wiring.add("Reshape", pixels, known), original, size, offset)


def write_way_back(wiring: Wiring, boxes: str, resized: Resized) -> str:
    """Return (K, 4) ``x1, y1, x2, y2`` of the input in pixels of the images."""
    twice = wiring.whole([0, 1, 0, 1])
    original, size = (
        wiring.add("Cast", wiring.add("Gather", one, twice, axis=0), to=TensorProto.FLOAT)
        for one in (resized.original, resized.size)
    )
    if resized.offset is not None:
        offset = wiring.add("Gather", resized.offset, twice, axis=0)
        boxes = wiring.add("Sub", boxes, wiring.add("Cast", offset, to=TensorProto.FLOAT))
    return wiring.add("Mul", boxes, wiring.add("Div", original, size))


def _scaled(wiring: Wiring, original: str, spec: InputSpec) -> str:
    """Return the size that fits into the input, or covers it, with the aspect ratio kept.

    A side is the input's, or follows from the other: ``round(width * input height / height)``, at
    most the input's where it is to fit, at least where it is to cover. Halves become even.
    """
    target = wiring.whole([spec.width, spec.height])
    other = wiring.add("Gather", original, wiring.whole([1, 0]), axis=0)
    product = wiring.add("Mul", original, wiring.whole([2 * spec.height, 2 * spec.width]))
    divisor = wiring.add("Mul", other, wiring.whole(2))
    above = wiring.add("Add", product, other)
    up, down = (
        wiring.add("Div", value, divisor)
        for value in (above, wiring.add("Sub", above, wiring.whole(1)))
    )
    odd = wiring.add("Mod", up, wiring.whole(2))
    rounded = wiring.add("Sub", up, wiring.add("Mul", wiring.add("Sub", up, down), odd))
    if spec.resize is Resize.CROP:
        return wiring.add("Max", rounded, target)
    return wiring.add("Max", wiring.add("Min", rounded, target), wiring.whole(1))


def _interpolated(wiring: Wiring, values: str, size: str) -> str:
    kept = wiring.part(wiring.add("Shape", values), 0, 2, axis=0)
    sizes = wiring.add("Concat", kept, _rows_first(wiring, size), axis=0)
    resized = wiring.add(
        *("Resize", values, "", "", sizes),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    return wiring.add("Round", resized)


def _cut(wiring: Wiring, pixels: str, cut: str, target: str) -> str:
    start, end = (_rows_first(wiring, one) for one in (cut, wiring.add("Add", cut, target)))
    return wiring.add("Slice", pixels, start, end, wiring.whole([2, 3]))


def _padded(wiring: Wiring, pixels: str, offset: str, rest: str, pad: int) -> str:
    none = wiring.whole([0, 0])
    before, after = (_rows_first(wiring, one) for one in (offset, wiring.add("Sub", rest, offset)))
    pads = wiring.add("Concat", none, before, none, after, axis=0)
    return wiring.add("Pad", pixels, pads, wiring.numbers(pad), mode="constant")


def _rows_first(wiring: Wiring, pair: str) -> str:
    """Return (down, across) of (across, down)."""
    return wiring.add("Gather", pair, wiring.whole([1, 0]), axis=0)
