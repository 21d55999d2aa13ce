"""Pictures for the tests, encoded by Pillow: a decoder's own encoder would prove nothing."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

MAX_PIXELS = 200_000_000
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
ADAM7 += [(1, 0, 2, 1)]


@cache
def scene(width: int, height: int) -> NDArray[np.uint8]:
    """Return ``(height, width, 3) uint8, RGB``: smooth colours, one sharp edge, a little noise."""
    down, across = np.mgrid[0:height, 0:width].astype(np.float64)
    down, across = down / max(height - 1, 1), across / max(width - 1, 1)
    waves = np.stack([across, down, (np.sin(9 * across) * np.cos(7 * down) + 1) / 2], axis=-1)
    waves[(across > 0.6) & (down < 0.4)] = (0.9, 0.1, 0.2)
    noise = np.random.default_rng(7).normal(scale=0.01, size=waves.shape)
    return np.asarray(np.clip((waves + noise) * 255, 0, 255), dtype=np.uint8)


def photo(width: int = 211, height: int = 157, mode: str = "RGB") -> Image.Image:
    """Return the scene as a picture of Pillow's ``mode``; alpha falls from left to right."""
    picture = Image.fromarray(scene(width, height))
    if mode in ("RGBA", "LA"):
        picture = picture.convert(mode)
        alpha = np.tile(np.linspace(255, 0, width).astype(np.uint8), (height, 1))
        picture.putalpha(Image.fromarray(alpha))
        return picture
    return picture.convert(mode)


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    """Return the file that Pillow writes."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def turned(picture: Image.Image, form: str, orientation: int) -> bytes:
    """Return the file with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(picture, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))


def png(width: int, height: int, *, bits: int, color_type: int, body: bytes) -> bytes:
    """Return a PNG of the filtered rows ``body``, for kinds that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png16(samples: NDArray[np.uint16]) -> bytes:
    """Return ``(H, W, 1 to 4) uint16`` as a PNG of 16 bits, every row unfiltered."""
    height, width, channels = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    body = np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes()
    return png(width, height, bits=16, color_type=(0, 4, 2, 6)[channels - 1], body=body)


def interlaced_png(picture: Image.Image) -> bytes:
    """Return a picture of mode L as a PNG in Adam7's seven passes."""
    pixels = np.asarray(picture)
    body = b""
    for top, left, down, across in ADAM7:
        rows = pixels[top::down, left::across]
        body += b"".join(b"\0" + row.tobytes() for row in rows if row.size)
    data = bytearray(png(picture.width, picture.height, bits=8, color_type=0, body=body))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def tiff16(samples: NDArray[np.uint16], orientation: int = 1) -> bytes:
    """Return ``(H, W, 3) uint16`` as an uncompressed big-endian TIFF of one strip."""
    height, width, channels = samples.shape
    body = samples.astype(">u2").tobytes()
    bits_at = 8 + len(body)
    tags = (
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits_at),
        (259, 3, 1, 1 << 16),
        (262, 3, 1, 2 << 16),
        (273, 4, 1, 8),
        (274, 3, 1, orientation << 16),
        (277, 3, 1, channels << 16),
        (278, 4, 1, height),
        (279, 4, 1, len(body)),
    )
    bits = struct.pack(f">{channels}H", *[16] * channels)
    directory = struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", *t) for t in tags)
    start = bits_at + len(bits)
    return b"MM\0*" + struct.pack(">I", start) + body + bits + directory + b"\0\0\0\0"


def upright(data: bytes) -> NDArray[np.uint8]:
    """Return what Pillow makes of a file: turned by its EXIF, ``(H, W, 3) uint8, RGB``."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
