"""What every format says of a picture before a single pixel is unpacked."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from visionmesh.errors import Code, Reject

Data: TypeAlias = bytes | memoryview
"""An encoded image; a `memoryview` is one-dimensional, contiguous and of bytes."""

Pixels: TypeAlias = NDArray[np.uint8]
Color: TypeAlias = Literal["RGB", "BGR", "GRAY"]
Size: TypeAlias = tuple[int, int]
"""``(height, width)`` in pixels."""


class Header(NamedTuple):
    """The size of a picture as it is stored, and how it is to be turned."""

    width: int
    height: int
    orientation: int = 1
    """1 to 8, as in EXIF's tag 0x0112: what has to be done to the stored pixels."""


def broken(name: str, detail: object) -> Reject:
    """Return the error for a picture that begins like a ``name`` but cannot be unpacked."""
    return Reject(
        Code.BROKEN_IMAGE,
        f"The {name} image is incomplete or damaged ({detail}): send it again, whole, "
        "or encode it anew.",
    )


def unsupported(name: str, advice: str) -> Reject:
    """Return the error for a picture that is sound but not of a kind that can be unpacked."""
    return Reject(Code.UNSUPPORTED_FORMAT, f"{name} cannot be read here: {advice}.")
