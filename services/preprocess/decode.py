"""From an encoded image to pixels: recognise the format, check the size, unpack, turn upright."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from services.preprocess.formats import bmp, jpeg, png, tiff, webp
from services.preprocess.formats.header import (
    Color,
    Data,
    Header,
    Pixels,
    Size,
    broken,
    unsupported,
)
from services.preprocess.orientation import swaps_sides, turn
from visionmesh.errors import Code, Reject

_HEAD: Final = 640
"""Bytes that tell a format; an XML declaration before an SVG is the longest."""
_SEND: Final = "send JPEG, PNG, WebP, BMP or TIFF"


class Format(NamedTuple):
    """One encoded format: how it begins, and the two functions that read it."""

    name: str
    begins: re.Pattern[bytes]
    read_header: Callable[[Data], Header]
    unpack: Callable[[Data, Header, Color, Size | None], Pixels]


def _begins(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


FORMATS: Final = (
    Format("JPEG", _begins(rb"\xff\xd8\xff"), jpeg.read_header, jpeg.unpack),
    Format("PNG", _begins(rb"\x89PNG\r\n\x1a\n"), png.read_header, png.unpack),
    Format("WebP", _begins(rb"RIFF.{4}WEBP"), webp.read_header, webp.unpack),
    Format(
        "BMP", _begins(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}"), bmp.read_header, bmp.unpack
    ),
    Format("TIFF", _begins(rb"II[*+]\0|MM\0[*+]"), tiff.read_header, tiff.unpack),
)

_KNOWN_BUT_UNREAD: Final = {
    "GIF": _begins(rb"GIF8[79]a"),
    "AVIF": _begins(rb".{4}ftypavi"),
    "HEIC": _begins(rb".{4}ftyp(hei|hev|mif1|msf1)"),
    "A video": _begins(rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI "),
    "PDF": _begins(rb"%PDF"),
    "JPEG 2000": _begins(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "JPEG XL": _begins(rb"\0\0\0\x0cJXL |\xff\x0a"),
    "SVG": _begins(rb"\s*(<\?xml.{0,512})?<svg"),
    "A Photoshop file": _begins(rb"8BPS"),
    "An icon": _begins(rb"\0\0[\1\2]\0"),
    "DICOM": _begins(rb".{128}DICM"),
    "OpenEXR": _begins(rb"\x76\x2f\x31\x01"),
    "A Netpbm file": _begins(rb"P[1-7]\s"),
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture, upright."""

    pixels: Pixels
    """``(H, W, C) uint8``; smaller than the original where it was scaled while decoding."""
    width: int
    """Of the original, upright, in pixels."""
    height: int


class Envelope(NamedTuple):
    """An encoded image whose header was read and found acceptable; nothing is unpacked yet."""

    data: Data
    format: Format
    header: Header
    width: int
    """Of the original, upright, in pixels."""
    height: int

    def unpack(self, color: Color, target: Size | None) -> Pixels:
        """Return ``(H, W, C) uint8``, upright; raise `Reject` (broken_image, unsupported_format).

        Where ``target`` (height, width) is at most half the original, both sides may be smaller
        than the original, but not than ``target``.
        """
        return turn(self.unpack_stored(color, target), self.header.orientation)

    def unpack_stored(self, color: Color, target: Size | None) -> Pixels:
        """Do what `unpack` does with an upright ``target``, but do not turn the picture."""
        if target is not None and swaps_sides(self.header.orientation):
            target = target[1], target[0]
        return self.format.unpack(self.data, self.header, color, target)


def recognise(data: Data) -> Format:
    """Return the format of ``data`` by its first bytes.

    Raises
    ------
    Reject
        empty_body, not_an_image, or unsupported_format for a known format that is not read here.
    """
    if not len(data):
        raise Reject(Code.EMPTY_BODY, f"The body is empty: {_SEND}.")
    for form in FORMATS:
        if form.begins.match(data):
            return form
    head = bytes(data[:_HEAD])
    for name, begins in _KNOWN_BUT_UNREAD.items():
        if begins.match(head):
            raise unsupported(name, _SEND)
    raise Reject(Code.NOT_AN_IMAGE, f"The body is not an image (it begins {head[:12]!r}): {_SEND}.")


def open_image(encoded: Data, *, max_pixels: int) -> Envelope:
    """Read format, size and orientation; no memory is taken for pixels.

    Raises
    ------
    Reject
        As `recognise`, and broken_image, image_empty (no rows or no columns) or image_too_large
        (more than ``max_pixels``).
    """
    form = recognise(encoded)
    try:
        header = form.read_header(encoded)
    except struct.error as error:
        raise broken(form.name, "its header is cut off") from error
    width, height, orientation = header
    if not width or not height:
        raise Reject(
            Code.IMAGE_EMPTY,
            f"The {form.name} image has {width} by {height} pixels: send at least 1.",
        )
    if width * height > max_pixels:
        raise Reject(
            Code.IMAGE_TOO_LARGE,
            f"The {form.name} image has {width} by {height} pixels, the limit is {max_pixels}: "
            "send a smaller one, or raise preprocess.max_pixels.",
        )
    if swaps_sides(orientation):
        width, height = height, width
    return Envelope(encoded, form, header, width, height)


def decode(encoded: Data, *, color: Color, target: Size | None = None, max_pixels: int) -> Decoded:
    """Unpack an image of any known format to ``(H, W, C) uint8``, upright, in the order ``color``.

    ``target`` is the (height, width) of the upright picture that is needed at least; a JPEG that
    is more than twice as large is scaled while it is decoded. ``encoded`` is not copied.

    Raises
    ------
    Reject
        As `open_image`, and broken_image if the pixels are damaged or cut off.
    """
    image = open_image(encoded, max_pixels=max_pixels)
    return Decoded(image.unpack(color, target), image.width, image.height)
