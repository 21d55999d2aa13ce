"""Tensors as the protocol writes them: in binary, or as JSON."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionmesh.errors import Code, Reject

BYTES = "BYTES"
"""The datatype of strings of bytes: encoded images, JSON documents."""
MAX_AXES = 8
_LENGTH = struct.Struct("<I")
"""In front of each element of `BYTES`."""

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{
        f"{sign}INT{bits}": np.dtype(f"<{sign.lower() or 'i'}{bits // 8}")
        for sign in ("U", "")
        for bits in (8, 16, 32, 64)
    },
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
"""Of all datatypes but `BYTES`. BF16 is missing, as no network here takes or gives it."""
DATATYPES = {dtype.name: name for name, dtype in DTYPES.items()}
"""What the protocol calls a dtype of NumPy, by its name there."""

_JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}
"""What a number may be in JSON, by the kind of its dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A named array: ``array`` of numbers, or ``texts``, the elements of `BYTES` in C order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    array: NDArray[Any] | None = None
    texts: tuple[bytes, ...] = ()
    raw: bytes | None = field(default=None, repr=False, compare=False)
    """What ``array`` is a view of, if it came in binary."""

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.texts)) if self.array is None else self.array.nbytes

    @classmethod
    def of_array(cls, name: str, array: NDArray[Any]) -> Tensor:
        return cls(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape, array=array)

    @classmethod
    def of_texts(cls, name: str, shape: tuple[int, ...], texts: Iterable[bytes]) -> Tensor:
        return cls(name=name, datatype=BYTES, shape=shape, texts=tuple(texts))

    def to_binary(self) -> bytes:
        """Return the elements in C order, little endian; `BYTES` with their lengths."""
        if self.array is None:
            return b"".join(chain.from_iterable((_LENGTH.pack(len(t)), t) for t in self.texts))
        return np.ascontiguousarray(self.array, DTYPES[self.datatype]).tobytes()

    def to_json(self) -> list[Any]:
        """Return the elements in C order; `BYTES` as text."""
        if self.array is None:
            return [text.decode(errors="replace") for text in self.texts]
        flat: list[Any] = self.array.ravel().tolist()
        return flat


def read_shape(name: str, shape: object) -> tuple[int, ...]:
    """Return a shape; raise `Reject` (invalid_request) if it is none."""
    if (
        not isinstance(shape, Sequence)
        or not 1 <= len(shape) <= MAX_AXES
        or not all(type(size) is int and 0 <= size < 1 << 31 for size in shape)
    ):
        raise _fault(name, f"its shape must be a list of 1 to {MAX_AXES} sizes, none below 0")
    return tuple(shape)


def from_binary(name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> Tensor:
    """Read a tensor from ``raw``, which it shares; raise `Reject` (invalid_request)."""
    if datatype == BYTES:
        return _checked(name, shape, split(name, raw, math.prod(shape)))
    dtype = _dtype(name, datatype)
    wanted = math.prod(shape) * dtype.itemsize
    if len(raw) != wanted:
        raise _fault(name, f"{list(shape)} of {datatype} has {wanted} bytes, not {len(raw)}")
    array = np.frombuffer(raw, dtype).reshape(shape)
    return Tensor(name=name, datatype=datatype, shape=shape, array=array, raw=raw)


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> Tensor:
    """Read a tensor from JSON, flat or nested; raise `Reject` (invalid_request).

    Elements of `BYTES` are text there.
    """
    flat = _flat(name, data)
    if datatype == BYTES:
        if not {type(text) for text in flat} <= {str}:
            raise _fault(name, "BYTES in JSON are strings; send anything else as binary data")
        return _checked(name, shape, [text.encode() for text in flat])
    dtype = _dtype(name, datatype)
    if not set(map(type, flat)) <= _JSON_TYPES[dtype.kind]:
        raise _fault(name, f"its data has elements that are no {datatype}")
    return from_numbers(name, datatype, shape, flat)


def from_numbers(name: str, datatype: str, shape: tuple[int, ...], flat: Sequence[Any]) -> Tensor:
    """Return a tensor of numbers; raise `Reject` (invalid_request) if they do not fit."""
    dtype = _dtype(name, datatype)
    _require_count(name, shape, len(flat))
    try:
        with np.errstate(over="ignore"):  # too large for a float is infinite
            array = np.array(flat, dtype)
    except (OverflowError, ValueError, TypeError) as error:
        raise _fault(name, f"its data does not fit into {datatype}") from error
    return Tensor(name=name, datatype=datatype, shape=shape, array=array.reshape(shape))


def from_texts(name: str, shape: tuple[int, ...], texts: Sequence[bytes]) -> Tensor:
    """Return a tensor of `BYTES`; raise `Reject` (invalid_request) if they are not so many."""
    return _checked(name, shape, texts)


def split(name: str, raw: bytes, count: int) -> list[bytes]:
    """Return the elements of `BYTES`, of more than ``count`` the first ones.

    Raises `Reject` (invalid_request) if a length lies.
    """
    texts: list[bytes] = []
    place, end = 0, len(raw)
    while place < end and len(texts) <= count:
        if place + _LENGTH.size > end:
            raise _fault(name, "its last length is cut off")
        start = place + _LENGTH.size
        place = start + _LENGTH.unpack_from(raw, place)[0]
        if place > end:
            raise _fault(name, f"an element of {place - start} bytes ends behind the data")
        texts.append(raw[start:place])
    return texts


def _checked(name: str, shape: tuple[int, ...], texts: Sequence[bytes]) -> Tensor:
    _require_count(name, shape, len(texts))
    return Tensor.of_texts(name, shape, texts)


def _require_count(name: str, shape: tuple[int, ...], count: int) -> None:
    if math.prod(shape) != count:
        raise _fault(name, f"{list(shape)} has {math.prod(shape)} elements, not {count}")


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    if datatype not in DTYPES:
        known = ", ".join((*DTYPES, BYTES))
        raise _fault(name, f"the datatype must be one of {known}")
    return DTYPES[datatype]


def _flat(name: str, data: object) -> list[Any]:
    """Return the elements of nested lists; all that is done for each is done by C code."""
    if not isinstance(data, list):
        raise _fault(name, "its data must be a list")
    for _ in range(MAX_AXES):
        if list not in (kinds := set(map(type, data))):
            return data
        if len(kinds) > 1:
            break
        data = list(chain.from_iterable(data))
    raise _fault(name, f"its data must be lists of one depth, at most {MAX_AXES}")


def _fault(name: str, why: str) -> Reject:
    return Reject(Code.INVALID_REQUEST, f"The tensor {name!r} cannot be read: {why}.")
