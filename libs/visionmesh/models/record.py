"""A model as the mesh knows it: its spec and the versions that were pushed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cached_property
from itertools import accumulate

from pydantic import Field

from visionmesh.contracts import Frozen, TensorMeta
from visionmesh.errors import Code, Refused
from visionmesh.models.spec import InputSpec, ModelSpec, OutputSpec
from visionmesh.models.traffic import Sticky, Traffic, Weights
from visionmesh.models.variants import Artifact, Variants

_OF_THE_ANSWER = {"confidence", "iou", "top_k", "max_detections", "nms", "class_confidence"}
"""Of the output settings: those that are applied to features, not in them."""


class StoredProgram(Frozen):
    """A version's ``model.pt2``."""

    sha256: str
    size_bytes: int


class VersionRecord(Frozen):
    """One version of a model."""

    sha256: str
    """Of ``model.onnx``, and the name under which the object store keeps it."""
    size_bytes: int
    pushed_at: datetime
    input: InputSpec
    output: OutputSpec
    labels: tuple[str, ...] = ()
    """``input``, ``output`` and ``labels`` are what the folder said when the version was pushed."""
    batch: int | None
    """The only batch size that the network takes; `None`: any."""
    input_name: str = ""
    """What the network calls its input."""
    outputs: tuple[TensorMeta, ...]
    """Of one image: shapes without the batch, -1 for sizes that only a run can tell."""
    variants: Variants | None = None
    """Other precisions of the network, and the fastest way to run it."""
    program: StoredProgram | None = None
    """The network as PyTorch runs it."""

    @property
    def objects(self) -> dict[str, int]:
        """Bytes of every file of the version, by the SHA-256 under which the mesh keeps it."""
        artifacts = self.variants.artifacts if self.variants else ()
        beside: list[Artifact | StoredProgram] = [*artifacts]
        if self.program:
            beside.append(self.program)
        return {self.sha256: self.size_bytes} | {one.sha256: one.size_bytes for one in beside}

    def fits(self, spec: ModelSpec) -> bool:
        """Say whether the version is what a push with ``spec`` would make of its weights."""
        return (self.input, self.output, self.labels) == (spec.input, spec.output, spec.labels)

    @cached_property
    def pixels_digest(self) -> str:
        """Equal digests mean equal input pixels for equal images."""
        return _digest(self.input.model_dump_json())

    @cached_property
    def features_digest(self) -> str:
        """Equal digests mean equal features for equal input pixels.

        Weights and decoder make them. Other precisions of the weights give slightly other ones,
        a decoder drops what scores less than any threshold of the version, and by the number of
        labels it may tell which of the network's classes is no object.
        """
        precisions = [self.variants.model_dump_json()] if self.variants else []
        precisions += [self.program.sha256] if self.program else []
        least = min(self.output.confidence, *self.output.class_confidence.values(), 1.0)
        settings = self.output.model_dump_json(exclude=_OF_THE_ANSWER)
        return _digest(self.sha256, settings, str(least), str(len(self.labels)), *precisions)

    @cached_property
    def answer_digest(self) -> str:
        """Equal digests mean equal answers for equal features and parameters."""
        return _digest(self.output.model_dump_json(), *self.labels)


class ModelRecord(Frozen):
    """One model: what it is told to be, and its versions."""

    spec: ModelSpec
    """As it was pushed last; `spec_of` tells what a version is run with."""
    versions: dict[int, VersionRecord] = Field(min_length=1)
    traffic: Traffic = Field(default_factory=lambda data: Traffic(weights=data["spec"].traffic))
    """By default what the folder said."""
    card: str = ""
    """What the model is, in a few sentences."""
    parked: bool = False
    """Unloaded by request: no worker keeps it in memory, and its images wait."""
    revision: int = Field(default=0, exclude=True)
    """Its place among all that the registry has stored, which tells it; 0 if it is not stored."""

    @property
    def newest(self) -> int:
        return max(self.versions)

    @property
    def objects(self) -> frozenset[str]:
        """The SHA-256 of every file of its versions."""
        return frozenset(sha256 for version in self.versions.values() for sha256 in version.objects)

    @property
    def shares(self) -> Weights:
        """The versions that get traffic, in ascending order, and their weights."""
        return self._there(self.traffic.weights) or {self.newest: 1.0}

    @property
    def wanted(self) -> tuple[int, ...]:
        """The versions that workers keep loaded: those with traffic, and the shadow."""
        if self.parked:
            return ()
        shadow = self.traffic.shadow
        watching = {shadow} if shadow in self.versions else set()
        return tuple(sorted({*self.shares, *watching}))

    def shares_among(self, ready: Collection[int]) -> Weights:
        """Return the weights of the versions that get traffic while only some are ``ready``.

        What is not ready gets none. If nothing is left, what answered before does, else the
        newest that is ready; if nothing is ready at all, images wait for `shares`.
        """
        for weights in (self.shares, self._there(self.traffic.before)):
            left = {version: weight for version, weight in weights.items() if version in ready}
            if left:
                return left
        there = self.versions.keys() & set(ready)
        return {max(there): 1.0} if there else self.shares

    def choose(self, id: str, source: str, *, ready: Collection[int] | None = None) -> int:
        """Return the version for an image: always the same one while weights and versions stay.

        Shares of ids, or of sources, follow the weights; see `shares_among` for ``ready``.
        """
        shares = self.shares if ready is None else self.shares_among(ready)
        if len(shares) == 1:
            return next(iter(shares))
        key = source if self.traffic.sticky is Sticky.SOURCE else id
        bounds = list(accumulate(shares.values()))
        drawn = hashlib.blake2b(f"{self.spec.name}\0{key}".encode(), digest_size=8).digest()
        point = int.from_bytes(drawn) / 2**64 * bounds[-1]
        return next((v for v, end in zip(shares, bounds, strict=True) if point < end), max(shares))

    def steered(self, **changes: object) -> ModelRecord:
        """Return the record with some fields of its traffic changed.

        Raises
        ------
        Refused
            (unknown_version) if a version was not pushed; (invalid_traffic) if no weight is above
            0, or the shadow gets traffic itself.
        """
        traffic = Traffic.model_validate(self.traffic.model_dump() | changes)
        for version in (*traffic.weights, traffic.shadow):
            if version is not None:
                self.version(version)
        if traffic.weights and not any(traffic.weights.values()):
            raise Refused(Code.INVALID_TRAFFIC, "At least one version must have a weight above 0.")
        record = self.model_copy(update={"traffic": traffic})
        if traffic.shadow in record.shares:
            raise Refused(
                Code.INVALID_TRAFFIC,
                f"Version {traffic.shadow} gets traffic, so it cannot be the shadow; "
                "name another one, or none.",
            )
        return record.after(self)

    def after(self, old: ModelRecord | None) -> ModelRecord:
        """Return the record that replaces ``old``, with what answered until now as ``before``."""
        if old is None or old.shares == self.shares:
            return self
        traffic = self.traffic.model_copy(update={"before": old.shares})
        return self.model_copy(update={"traffic": traffic})

    def rolled_back(self) -> ModelRecord:
        """Return the record with the weights that were there before; a second time undoes it.

        Raises
        ------
        Refused
            (invalid_traffic) if nothing else has answered before.
        """
        weights = self._there(self.traffic.before)
        if not weights:
            raise Refused(
                Code.INVALID_TRAFFIC,
                f"No other version of {self.spec.name!r} has answered before; "
                "choose one with `visionmesh traffic`.",
            )
        shadow = None if self.traffic.shadow in weights else self.traffic.shadow
        return self.steered(weights=weights, shadow=shadow)

    def without(self, number: int) -> ModelRecord:
        """Return the record without one of its versions.

        Raises
        ------
        Refused
            (unknown_version) if it was not pushed; (invalid_traffic) if it gets images.
        """
        self.version(number)
        if number in self.model_copy(update={"parked": False}).wanted:
            raise Refused(
                Code.INVALID_TRAFFIC,
                f"Version {number} of {self.spec.name!r} gets images: give them to another one "
                "with `visionmesh traffic`, or remove the whole model.",
            )
        left = {other: version for other, version in self.versions.items() if other != number}
        return self.model_copy(update={"versions": left})

    def _there(self, weights: Mapping[int, float]) -> Weights:
        return {v: weight for v, weight in sorted(weights.items()) if weight and v in self.versions}

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

    def spec_of(self, number: int) -> ModelSpec:
        """Return what a version is run with: its own input, output and labels, else the model's.

        Raises `Refused` (unknown_version) if it was not pushed.
        """
        version = self.version(number)
        own = {"input": version.input, "output": version.output, "labels": version.labels}
        return self.spec.model_copy(update=own)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
