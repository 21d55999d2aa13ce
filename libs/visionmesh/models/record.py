"""A model as the mesh knows it: its spec and the versions that were pushed."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cached_property
from itertools import accumulate

from pydantic import Field

from visionmesh.contracts import Frozen, TensorMeta
from visionmesh.errors import Code, Refused
from visionmesh.models.spec import ModelSpec, OutputSpec
from visionmesh.models.variants import Variants

_OF_THE_ANSWER = {"confidence", "iou", "top_k", "max_detections", "nms", "class_confidence"}
"""Of the output settings: those that are applied to features, not in them."""


class VersionRecord(Frozen):
    """One version of a model."""

    sha256: str
    """Of ``model.onnx``, and the name under which the object store keeps it."""
    size_bytes: int
    digest: str
    """Equal digests mean equal features for equal input pixels."""
    pushed_at: datetime
    batch: int | None
    """The only batch size that the network takes; `None`: any."""
    outputs: tuple[TensorMeta, ...]
    """Of one image: shapes without the batch, -1 for sizes that only a run can tell."""
    variants: Variants | None = None
    """Other precisions of the network, and the fastest way to run it."""


class ModelRecord(Frozen):
    """One model: what it is told to be, and its versions."""

    spec: ModelSpec
    versions: dict[int, VersionRecord] = Field(min_length=1)

    @property
    def newest(self) -> int:
        return max(self.versions)

    @property
    def served(self) -> tuple[int, ...]:
        """The versions that get traffic, in ascending order."""
        weighed = (v for v, weight in self.spec.traffic.items() if weight and v in self.versions)
        return tuple(sorted(weighed)) or (self.newest,)

    def choose(self, key: str) -> int:
        """Return the version for ``key``: always the same one while weights and versions stay.

        Shares of keys follow the weights in ``traffic``; without weights the newest version serves.
        """
        served = self.served
        bounds = list(accumulate(self.spec.traffic.get(version, 1.0) for version in served))
        drawn = hashlib.blake2b(f"{self.spec.name}\0{key}".encode(), digest_size=8).digest()
        point = int.from_bytes(drawn) / 2**64 * bounds[-1]
        return next((v for v, end in zip(served, bounds, strict=True) if point < end), served[-1])

    def version(self, number: int) -> VersionRecord:
        """Return a version; raise `Refused` (unknown_version) if it was not pushed."""
        try:
            return self.versions[number]
        except KeyError:
            there = ", ".join(str(version) for version in sorted(self.versions))
            raise Refused(
                Code.UNKNOWN_VERSION,
                f"Model {self.spec.name!r} has no version {number}; it has: {there}.",
            ) from None

    @cached_property
    def preprocess_digest(self) -> str:
        """Equal digests mean equal input pixels for equal images."""
        return _digest(self.spec.input.model_dump_json())

    @cached_property
    def answer_digest(self) -> str:
        """Equal digests mean equal answers for equal features and parameters."""
        return _digest(self.spec.output.model_dump_json(), *self.spec.labels)


def feature_digest(weights_sha256: str, output: OutputSpec) -> str:
    """Return the digest of what makes features out of input pixels: weights and decoder."""
    return _digest(weights_sha256, output.model_dump_json(exclude=_OF_THE_ANSWER))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
