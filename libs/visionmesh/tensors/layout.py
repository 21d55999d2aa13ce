"""Arrays in a payload: one behind the other, each aligned to 64 bytes (a cache line)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionmesh.contracts import TensorMeta
from visionmesh.errors import Code, Reject
from visionmesh.gpu.gpu import DeviceArray

ALIGNMENT = 64
MAX_DIMENSIONS = 8

_DTYPES = {
    name: np.dtype(name)
    for name in (
        *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
        *("float16", "float32", "float64"),
    )
}


def describe(arrays: Mapping[str, NDArray[Any] | DeviceArray]) -> tuple[TensorMeta, ...]:
    """Return what is to be said of ``arrays`` so that a reader finds them in a payload."""
    return tuple(
        TensorMeta(name=name, dtype=array.dtype.name, shape=array.shape)
        for name, array in arrays.items()
    )


def plan(metas: Sequence[TensorMeta]) -> tuple[tuple[int, ...], int]:
    """Return the offset of each array, and the length of the payload, in bytes.

    Raises
    ------
    Reject
        If a dtype is not a plain number, a dimension is negative or there are too many.
    """
    offsets, end = [], 0
    for meta in metas:
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        offsets.append(begin)
        end = begin + _nbytes(meta)
    return tuple(offsets), end


def arrays(view: memoryview, metas: Sequence[TensorMeta]) -> dict[str, NDArray[Any]]:
    """Return the arrays that lie in ``view``, without copying; read-only if ``view`` is.

    Raises
    ------
    Reject
        If the metas are not valid or say more than ``view`` holds.
    """
    offsets, total = plan(metas)
    if total > len(view):
        raise _invalid(f"{len(view)} bytes cannot hold arrays of {total}")
    return {
        meta.name: np.frombuffer(
            view, dtype=_DTYPES[meta.dtype], count=math.prod(meta.shape), offset=offset
        ).reshape(meta.shape)
        for meta, offset in zip(metas, offsets, strict=True)
    }


def device_arrays(memory: DeviceArray, metas: Sequence[TensorMeta]) -> dict[str, DeviceArray]:
    """Return the arrays that lie in ``memory``, ``(nbytes,) uint8`` of a GPU, without copying.

    Raises
    ------
    Reject
        If the metas are not valid or say more than ``memory`` holds.
    """
    offsets, total = plan(metas)
    if total > memory.nbytes:
        raise _invalid(f"{memory.nbytes} bytes cannot hold arrays of {total}")
    return {
        meta.name: memory[offset : offset + _nbytes(meta)]
        .view(_DTYPES[meta.dtype])
        .reshape(meta.shape)
        for meta, offset in zip(metas, offsets, strict=True)
    }


def _nbytes(meta: TensorMeta) -> int:
    dtype = _DTYPES.get(meta.dtype)
    if dtype is None:
        raise _invalid(f"{meta.name!r} has the dtype {meta.dtype!r}")
    if len(meta.shape) > MAX_DIMENSIONS or any(side < 0 for side in meta.shape):
        raise _invalid(f"{meta.name!r} has the shape {meta.shape}")
    return math.prod(meta.shape) * dtype.itemsize


def _invalid(what: str) -> Reject:
    return Reject(Code.INTERNAL, f"The payload is not as its reference says: {what}.")
