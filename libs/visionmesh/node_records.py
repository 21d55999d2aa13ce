"""What workers tell of themselves, and what follows from it for a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from pydantic import ConfigDict, Field

from visionmesh.contracts import Frozen
from visionmesh.gpu.listing import GpuListing
from visionmesh.routing import Place

_APPLYING = frozenset({"infer", "postprocess"})
"""The stages whose workers load or decode what a record says."""


class LoadedVersion(Frozen):
    """One version of a model in the memory of a worker."""

    model: str
    version: int
    devices: tuple[str, ...]
    engine: str
    precision: str
    copies: int
    """Of the engine; each works on one batch at a time."""
    memory_bytes: int
    """By how much the worker grew when it was loaded."""
    device_memory: dict[str, int] = Field(default_factory=dict)
    """How many bytes of a GPU it took, by the GPU's UUID."""
    since: datetime
    why: str = ""
    """Why it is run this way; empty: it is the usual one."""


class NodeRecord(Frozen):
    """What one worker tells of itself; a newer release may tell more."""

    model_config = ConfigDict(extra="ignore")

    node: str
    stage: str
    pid: int
    worker: str
    """Random: in containers every process may have the pid 1."""
    models: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Versions that images can be given to, by model: loaded and warm, or asleep until the next."""
    loaded: tuple[LoadedVersion, ...] = ()
    """Those in memory now."""
    failed: dict[str, str] = Field(default_factory=dict)
    """Why a version cannot be run or decoded here, by `version_key`."""
    applied: dict[str, int] | None = None
    """Of infer and postprocess: the revision of the record, by model, of which they tell the rest.

    `None`: the worker is of a release that does not tell.
    """
    heard: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Of ingest: the versions that it would give images to, by model."""
    backlog: dict[str, int] = Field(default_factory=dict)
    """Milliseconds that the engines need for what waits for them, by model."""
    asleep: dict[str, str] = Field(default_factory=dict)
    """Why a version sleeps until its next image, by `version_key`."""
    loading: dict[str, str] = Field(default_factory=dict)
    """How far that is what a version waits for, where it takes long, by `version_key`."""
    device: str = "cpu"
    devices: tuple[str, ...] = ()
    """UUIDs of the GPUs from whose memory it reads what other workers put there."""
    reduces: tuple[str, ...] = ()
    """Of postprocess: versions whose outputs it reduces there, by `version_key`."""
    gpus: tuple[GpuListing, ...] = ()
    """Those that the worker may use, as they were some seconds ago."""
    load: float = 0.0
    """Images in hand."""
    http: str | None = None
    """Its URL."""
    grpc: str | None = None
    """``host:port``, of ingest."""
    since: datetime
    ready: bool = False

    @property
    def key(self) -> str:
        return f"{self.stage}.{self.node}.{self.worker}"


def version_key(model: str, version: int) -> str:
    return f"{model}/{version}"


def serving(records: Iterable[NodeRecord], model: str) -> list[NodeRecord]:
    """Return the infer workers that serve ``model``."""
    return [record for record in records if record.stage == "infer" and model in record.models]


def staffed(records: Sequence[NodeRecord], model: str) -> bool:
    """Say whether every stage has a worker for ``model``: see `Nodes.staffed`."""
    ready = {record.stage for record in records if record.ready}
    known = serving(records, model) or _failed(records, model)
    return bool(known) and {"preprocess", "postprocess"} <= ready


def versions_of(records: Sequence[NodeRecord], model: str) -> frozenset[int]:
    """Return the versions that images can be given to: see `Nodes.versions`."""
    workers = serving(records, model)
    if not workers:
        return frozenset()
    warm = [frozenset(record.models[model]) for record in workers]
    found = frozenset.intersection(*warm)
    if not found:
        found = frozenset.union(*warm) - _failed(workers, model)
    return found - undecodable_of(records, model)


def agreed(records: Iterable[NodeRecord], model: str, revision: int) -> bool:
    """Say whether a record was applied by all workers that run and decode: see `Nodes.agreed`."""
    told = [
        (record.stage, record.applied.get(model))
        for record in records
        if record.ready and record.stage in _APPLYING and record.applied is not None
    ]
    runs = any(stage == "infer" for stage, _ in told)
    return runs and all(applied == revision for _, applied in told)


def outdated_of(records: Iterable[NodeRecord], model: str) -> frozenset[int]:
    """Return the versions that an infer worker runs as they were before: see `Nodes.outdated`."""
    workers = serving(records, model)
    return frozenset(
        version
        for one in workers
        for version in one.models[model]
        if version in _failed([one], model)
    )


def undecodable_of(records: Iterable[NodeRecord], model: str) -> frozenset[int]:
    """Return the versions whose outputs some postprocess worker cannot decode."""
    return _failed((record for record in records if record.stage == "postprocess"), model)


def places_of(records: Iterable[NodeRecord], model: str) -> dict[str, Place]:
    """Return the nodes whose infer workers serve ``model``."""
    workers: dict[str, list[NodeRecord]] = {}
    for record in serving(records, model):
        if record.ready:
            workers.setdefault(record.node, []).append(record)
    return {
        node: Place(
            devices=frozenset(kind for record in there for kind in _kinds(record, model)),
            backlog=least_backlog(there, model),
        )
        for node, there in workers.items()
    }


def _kinds(record: NodeRecord, model: str) -> Iterator[str]:
    """Yield the kinds of devices that run ``model``; while it is asleep, the worker's own."""
    loaded = [version for version in record.loaded if version.model == model]
    for version in loaded:
        yield from (device.partition(":")[0] for device in version.devices)
    if not loaded:
        yield record.device


def all_read(
    records: Iterable[NodeRecord],
    uuid: str,
    *,
    node: str,
    stage: str,
    model: str | None,
    reduced: str | None = None,
) -> bool:
    """Say whether all who may take an image read from the memory of a GPU: see `Nodes.all_read`.

    Those who are not ready may take one, too: some have begun, and some have not yet ended.
    """
    takers = [
        record
        for record in records
        if (record.stage, record.node) == (stage, node)
        and (model is None or model in record.models)
    ]
    return bool(takers) and all(
        _reads(record, uuid, model) and (reduced is None or reduced in record.reduces)
        for record in takers
    )


def _reads(record: NodeRecord, uuid: str, model: str | None) -> bool:
    """Say whether a worker reads there, and runs all it has loaded of ``model`` there only."""
    if model is None or uuid not in record.devices:
        return uuid in record.devices
    loaded = [version for version in record.loaded if version.model == model]
    return bool(loaded) and all(
        len(version.devices) == 1 and version.device_memory.keys() == {uuid} for version in loaded
    )


def least_backlog(records: Iterable[NodeRecord], model: str) -> timedelta:
    """Return for how long the least busy worker has something to do."""
    told = (record.backlog.get(model, 0) for record in records)
    return timedelta(milliseconds=min(told, default=0))


def _failed(records: Iterable[NodeRecord], model: str) -> frozenset[int]:
    """Return the versions of ``model`` that one of the workers cannot run or decode."""
    keys = [key.rpartition("/") for record in records for key in record.failed]
    return frozenset(int(version) for name, _, version in keys if name == model)
