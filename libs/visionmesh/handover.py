"""A network's outputs on their way to a caller who wants them as they are.

They go from the worker that has them straight to the worker that was asked: through shared memory
on one node, else in the body of the reply, behind the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionmesh.contracts import Frozen, InlineLocation, Location, TensorMeta
from visionmesh.gpu.copier import AnyArray, Copier
from visionmesh.tensors import Reader, Slot, arrays, describe, device_arrays, plan

TENSORS_HEADER = "Vm-Tensors"
"""On the reply to a request that wants tensors: how long its result is, and where they lie."""

Outputs = Mapping[str, AnyArray]
"""By name, on the host or on a device."""


class _Head(Frozen):
    result_bytes: int
    tensors: tuple[TensorMeta, ...]
    location: Location


@dataclass(frozen=True, slots=True)
class Handover:
    """Outputs that lie ready to be sent."""

    tensors: tuple[TensorMeta, ...]
    location: Location
    payload: bytes
    """Empty if they lie in shared memory."""

    def behind(self, result: bytes) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of the reply that begins with ``result``."""
        location = self.location
        if isinstance(location, InlineLocation):
            location = InlineLocation(offset=len(result), length=len(self.payload))
        head = _Head(result_bytes=len(result), tensors=self.tensors, location=location)
        return result + self.payload, {TENSORS_HEADER: head.model_dump_json()}


def size_of(outputs: Outputs) -> int:
    """Return how many bytes `lay_out` needs."""
    return plan(describe(outputs))[1]


def are_home(outputs: Outputs) -> bool:
    """Say whether the host can read ``outputs`` where they are."""
    return all(isinstance(array, np.ndarray) for array in outputs.values())


def lay_out(outputs: Outputs, slot: Slot, copier: Copier | None = None) -> tuple[TensorMeta, ...]:
    """Write ``outputs`` into ``slot``; return what its reader must know.

    If either may be in a GPU's memory, ``copier`` is one of that GPU.
    """
    (metas,) = lay_out_all([(outputs, slot)], copier)
    return metas


def lay_out_all(
    jobs: Sequence[tuple[Outputs, Slot]], copier: Copier | None = None
) -> list[tuple[TensorMeta, ...]]:
    """Do what `lay_out` does for several slots; a device is waited for once.

    Raises
    ------
    Retry, Fatal
        If the device fails: see `visionmesh.gpu.failures`.
    """
    described = [describe(outputs) for outputs, _ in jobs]
    pairs = [
        pair
        for (outputs, slot), metas in zip(jobs, described, strict=True)
        for pair in zip(outputs.values(), _targets(slot, metas).values(), strict=True)
    ]
    if copier is not None:
        copier.copy(pairs)
    else:
        for array, target in pairs:
            np.copyto(target, array)
    return described


def _targets(slot: Slot, metas: Sequence[TensorMeta]) -> dict[str, AnyArray]:
    return arrays(slot.view, metas) if slot.device is None else device_arrays(slot.device, metas)


def handed(metas: tuple[TensorMeta, ...], slot: Slot) -> Handover:
    """Commit ``slot``, in which outputs were laid out."""
    location = slot.commit()
    payload = bytes(slot.view) if isinstance(location, InlineLocation) else b""
    return Handover(metas, location, payload)


def take_over(header: str, body: bytes, reader: Reader) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Return the result in ``body``, and copies of the outputs; raise `Miss` if they are gone."""
    head = _Head.model_validate_json(header)
    reading = reader.read(head.location, memoryview(body))
    try:
        copies = {name: one.copy() for name, one in arrays(reading.view, head.tensors).items()}
        reading.check()
    finally:
        reading.release()
    return body[: head.result_bytes], copies
