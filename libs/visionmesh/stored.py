"""What the cache keeps of an image: its answer, or the features that any answer is made from."""

from __future__ import annotations

from visionmesh.cache import features_key, result_key
from visionmesh.contracts import Answer, Frozen, Placement, Reference
from visionmesh.models.record import ModelRecord


class StoredAnswer(Answer):
    """An answer under its result key."""

    width: int
    height: int


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
    """Return the value under a features key: the head as a line of JSON, then the features."""
    return head.model_dump_json().encode() + b"\n" + packed


def split_features(value: bytes) -> tuple[FeaturesHead, bytes]:
    """Return head and packed features; raise `ValueError` if ``value`` is something else."""
    line, _, packed = value.partition(b"\n")
    return FeaturesHead.model_validate_json(line), packed
