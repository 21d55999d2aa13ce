"""Bundles: the messages between the stages, each with one to a few dozen references.

A bundle is a little-endian ``uint32`` with the length of the JSON array of references, the array,
and the payloads of the inline ones, at the offsets that they name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from visionmesh.contracts import InlineLocation, Reference
from visionmesh.errors import Code, Reject

_LENGTH = struct.Struct("<I")
_REFERENCES = TypeAdapter(list[Reference])


class Parcel(NamedTuple):
    """A reference, and its payload where that travels in the message."""

    reference: Reference
    payload: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return len(self.payload) if self.payload is not None else 0


def encode(parcels: Sequence[Parcel]) -> bytes:
    """Return the message that carries ``parcels``."""
    payloads: list[bytes] = []
    references: list[Reference] = []
    offset = 0
    for reference, payload in parcels:
        if payload is None:
            references.append(reference)
            continue
        location = InlineLocation(offset=offset, length=len(payload))
        references.append(reference.model_copy(update={"location": location}))
        payloads.append(payload)
        offset += len(payload)
    head = _REFERENCES.dump_json(references, exclude_defaults=True)
    return b"".join((_LENGTH.pack(len(head)), head, *payloads))


def decode(body: bytes) -> tuple[list[Reference], memoryview]:
    """Return the references of a message and the region of its inline payloads.

    Raises
    ------
    Reject
        If it is no bundle, or a location points outside it (invalid_event).
    """
    view = memoryview(body)
    try:
        (length,) = _LENGTH.unpack_from(view)
        references = _REFERENCES.validate_json(bytes(view[_LENGTH.size : _LENGTH.size + length]))
    except (struct.error, ValidationError) as error:
        raise Reject(Code.INVALID_EVENT, f"This is no bundle of references: {error}") from error
    payloads = view[_LENGTH.size + length :]
    for reference in references:
        location = reference.location
        if isinstance(location, InlineLocation) and not (
            0 <= location.offset <= location.offset + location.length <= len(payloads)
        ):
            raise Reject(Code.INVALID_EVENT, f"The payload of {reference.id!r} is cut off.")
    return references, payloads


def split(parcels: Sequence[Parcel], *, max_bytes: int) -> Iterator[Sequence[Parcel]]:
    """Cut ``parcels`` into runs of at most ``max_bytes`` of payload, or of one parcel."""
    begin, total = 0, 0
    for index, parcel in enumerate(parcels):
        if index > begin and total + parcel.size > max_bytes:
            yield parcels[begin:index]
            begin, total = index, 0
        total += parcel.size
    if begin < len(parcels):
        yield parcels[begin:]
