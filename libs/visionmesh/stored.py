"""What the cache keeps of an image: its answer, or the features that any answer is made from."""

from __future__ import annotations

import zlib
from struct import Struct
from struct import error as StructError
from typing import Self

from visionmesh.cache import features_key, result_key
from visionmesh.contracts import Answer, Frozen, Placement, Reference
from visionmesh.models.record import ModelRecord

_UNFOLDED_LIMIT = 16 << 20
"""Bytes that a stored value may unfold to; a real one is a few KB."""

_MAGIC = b"VH1"
_HEAD = Struct("<3s2I4d")


class StoredAnswer(Answer):
    """An answer under its result key."""

    width: int
    height: int

    def to_bytes(self) -> bytes:
        """Return it as compressed JSON: half the memory, and a third where there are many boxes."""
        return zlib.compress(self.model_dump_json(exclude_none=True).encode(), level=1)

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Return the answer; raise `ValueError` if ``value`` is something else."""
        return cls.model_validate_json(unfold(value))


def unfold(compressed: bytes | memoryview) -> bytes:
    """Return what zlib compressed; raise `ValueError` for what is damaged, cut off or too long."""
    inflater = zlib.decompressobj()
    try:
        unfolded = inflater.decompress(compressed, _UNFOLDED_LIMIT)
    except zlib.error as error:
        raise ValueError(f"the stored value is damaged: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise ValueError("the stored value is cut off, followed by another, or too long")
    return unfolded


def cache_keys(reference: Reference, record: ModelRecord) -> tuple[str, str]:
    """Return the keys of the answer and of the features as ``record`` makes them.

    A stage that knows another record than ingest did, because a push is on its way through the
    mesh, sees by the keys that what it computed must not be stored under them.
    """
    version = record.version(reference.version)
    features, pixels = version.features_digest, version.pixels_digest
    return (
        result_key(reference.sha256, features + version.answer_digest, pixels, reference.params),
        features_key(reference.sha256, features, pixels),
    )


class FeaturesHead(Frozen):
    """What is known of the image besides its features."""

    width: int
    height: int
    placement: Placement


def join_features(head: FeaturesHead, packed: bytes) -> bytes:
    """Return the value under a features key: ``VH1``, the head as numbers, then the features."""
    at = head.placement
    numbers = (at.scale_x, at.scale_y, at.offset_x, at.offset_y)
    return _HEAD.pack(_MAGIC, head.width, head.height, *numbers) + packed


def split_features(value: bytes) -> tuple[FeaturesHead, bytes]:
    """Return head and packed features; raise `ValueError` if ``value`` is something else."""
    try:
        magic, width, height, scale_x, scale_y, offset_x, offset_y = _HEAD.unpack_from(value)
    except StructError as error:
        raise ValueError(f"too short for features: {error}") from error
    if magic != _MAGIC:
        raise ValueError("these bytes are not features with their head")
    placement = Placement(scale_x=scale_x, scale_y=scale_y, offset_x=offset_x, offset_y=offset_y)
    return FeaturesHead(width=width, height=height, placement=placement), value[_HEAD.size :]
