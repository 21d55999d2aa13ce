"""What the cache keeps of an image: its answer, or the features that any answer is made from."""

from __future__ import annotations

from visionmesh.contracts import Answer, Frozen, Placement


class StoredAnswer(Answer):
    """An answer under its result key."""

    width: int
    height: int


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
