"""What a producer may give for an image, and the bytes that travel for it."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from visionmesh.errors import Code, Refused

Pixels = NDArray[np.uint8]
"""``(H, W, 3)``, RGB."""

MOST_BYTES = 31 << 20
"""Of pixels: a stream keeps messages of 32 MiB."""

_BMP_HEADER = struct.Struct("<2sIHHI IiiHHIIiiII")
_INFO_BYTES = 40
_PIXELS_PER_METRE = 2835
_CHANNELS = 3


class Drawn(Protocol):
    """An image of Pillow, told by what it can do: nobody needs Pillow for the others."""

    @property
    def mode(self) -> str: ...

    def convert(self, mode: str) -> Any: ...


Picture = bytes | bytearray | memoryview | Path | str | Pixels | Drawn
"""An encoded image, the path of one, ``(H, W, 3) uint8`` RGB pixels, or an image of Pillow."""


async def encoded(picture: Picture) -> bytes:
    """Return ``picture`` as the bytes of an image file.

    Files travel as they are. Pixels travel as BMP: unchanged, and packed in no time. An image of
    Pillow is its pixels as they are, so an orientation that its file had has no effect.

    Raises
    ------
    ValueError
        If an array is not ``(H, W, 3) uint8``, or empty.
    TypeError
        If ``picture`` is something else.
    Refused
        If its pixels need more than 31 MiB (payload_too_large): publish a file of them then.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        return await asyncio.to_thread(Path(picture).read_bytes)
    if isinstance(picture, bytearray | memoryview):
        return bytes(picture)
    return await asyncio.to_thread(lambda: to_bmp(pixels_of(picture)))


def pixels_of(picture: Pixels | Drawn) -> Pixels:
    """Return the pixels of an array or of an image of Pillow; raise as `encoded`."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.shape[2:] != (_CHANNELS,) or not picture.size:
            raise ValueError(
                "An array must be (height, width, 3) of uint8 in the order RGB; "
                f"this one is {picture.shape} of {picture.dtype}."
            )
        return picture
    if not hasattr(picture, "mode") or not hasattr(picture, "convert"):
        raise TypeError(
            "An image is bytes, a path, an array or an image of Pillow; "
            f"this is {type(picture).__name__}."
        )
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def to_bmp(pixels: Pixels) -> bytes:
    """Return ``pixels`` as a Windows bitmap, 24 bits a pixel and not compressed.

    The layout is that of BITMAPFILEHEADER and BITMAPINFOHEADER in Microsoft's documentation.
    """
    height, width = pixels.shape[:2]
    row = (width * _CHANNELS + 3) // 4 * 4
    size = _BMP_HEADER.size + row * height
    if size > MOST_BYTES:
        raise Refused(
            Code.PAYLOAD_TOO_LARGE,
            f"{width} x {height} pixels need {size:,} bytes, more than the {MOST_BYTES:,} that an "
            "event may have: publish them as a JPEG or PNG file.",
        )
    # The order of the fields: of the file, then of the picture.
    file = (b"BM", size, 0, 0, _BMP_HEADER.size)
    picture = (_INFO_BYTES, width, height, 1, 8 * _CHANNELS, 0, row * height)
    resolution = (_PIXELS_PER_METRE, _PIXELS_PER_METRE, 0, 0)
    bitmap = bytearray(size)
    _BMP_HEADER.pack_into(bitmap, 0, *file, *picture, *resolution)
    rows = np.frombuffer(bitmap, np.uint8, offset=_BMP_HEADER.size).reshape(height, row)
    # From the lowest row up, and blue first.
    rows[::-1, : width * _CHANNELS].reshape(height, width, _CHANNELS)[:] = pixels[..., ::-1]
    return bytes(bitmap)
