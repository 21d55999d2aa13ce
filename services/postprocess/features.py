"""Features as bytes: what lies in the cache between a decoder's two steps.

``VF1``, then zlib over: the number of arrays (one byte), and for each its name and its dtype (each
with a length byte), its number of dimensions (one byte), the dimensions (uint32) and the values.
All is little-endian.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from visionmesh.stored import unfold

_Array = npt.NDArray[Any]

_MAGIC = b"VF1"
_KINDS = "biuf"
_NUMBERS = re.compile(rf"[<|][{_KINDS}]\d{{1,2}}")
"""What `numpy.dtype` may be asked to read: its own language says much more."""

_DIMENSION = Struct("<I")


class FeaturesError(ValueError):
    """The bytes or arrays are not features of this kind: drop them and compute the image again."""


def pack(features: Mapping[str, _Array]) -> bytes:
    """Return ``features`` as compressed bytes; raise `FeaturesError` if they cannot be told so."""
    body = bytearray([len(features)])
    for name, array in features.items():
        dtype = array.dtype.newbyteorder("<")
        if dtype.kind not in _KINDS:
            raise FeaturesError(f"features {name!r} are {array.dtype}, not numbers")
        for text in (name.encode(), dtype.str.encode()):
            body += bytes([len(text)]) + text
        body.append(array.ndim)
        body += b"".join(map(_DIMENSION.pack, array.shape))
        body += array.astype(dtype, copy=False).tobytes()
    return _MAGIC + zlib.compress(body, level=1)


def unpack(packed: bytes) -> dict[str, _Array]:
    """Return the arrays given to `pack`, read-only; raise `FeaturesError` for any other bytes."""
    if not packed.startswith(_MAGIC):
        raise FeaturesError("these bytes are not features")
    try:
        return _Reader(unfold(memoryview(packed)[len(_MAGIC) :])).arrays()
    except FeaturesError:
        raise
    except (ValueError, TypeError) as error:
        raise FeaturesError(f"the features are damaged: {error}") from error


class _Reader:
    """Walks through the bytes of a body, and never past their end."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def arrays(self) -> dict[str, _Array]:
        found = dict(self._array() for _ in range(self._byte()))
        if self._at != len(self._body):
            raise FeaturesError("bytes are left over behind the features")
        return found

    def _array(self) -> tuple[str, _Array]:
        name = self._take(self._byte()).decode()
        kind = self._take(self._byte()).decode()
        if _NUMBERS.fullmatch(kind) is None:
            raise FeaturesError(f"features {name!r} are {kind!r}, not numbers")
        dtype = np.dtype(kind)
        sizes = self._take(self._byte() * _DIMENSION.size)
        shape = tuple(size for (size,) in _DIMENSION.iter_unpack(sizes))
        values = self._take(math.prod(shape) * dtype.itemsize)
        return name, np.frombuffer(values, dtype).reshape(shape)

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._body):
            raise FeaturesError("the features end too early")
        taken = self._body[self._at : end]
        self._at = end
        return taken
