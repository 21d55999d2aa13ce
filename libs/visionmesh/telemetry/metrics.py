"""Every metric of every service: the tables, and methods that cost about a microsecond."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    Summary,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from visionmesh.gpu.listing import GpuListing
from visionmesh.telemetry.gpus import GpuCollector, GpuTable

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From a small model on a GPU to the longest that anyone waits for one image."""

IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
"""The sizes that engines are commonly built for."""


_STAGE = ("stage",)
_NAME = ("model",)
_MODEL = ("stage", "model")
_OUTCOME = (*_MODEL, "status", "reason")
_VERSION = ("model", "version")
_SHADOWED = (*_VERSION, "outcome")


class ModelTable:
    """The metrics with the label ``model``, as Prometheus sees them, but for those of GPUs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        seconds = partial(Histogram, buckets=SECONDS, registry=registry)
        images = partial(Histogram, buckets=IMAGES, registry=registry)
        self.requests = counter(
            "visionmesh_requests", "Images that a stage is done with, by outcome.", _OUTCOME
        )
        self.inference = seconds(
            "visionmesh_inference_seconds",
            "What a stage itself needs for one image, or the engine for one batch.",
            _MODEL,
        )
        self.queue = seconds(
            "visionmesh_queue_seconds", "How long an image waited before a stage took it.", _MODEL
        )
        self.queue_depth = gauge(
            "visionmesh_queue_depth",
            "Messages that wait in front of a stage; no model: of all models.",
            (*_MODEL, "lane"),
        )
        self.engine_queue = gauge(
            "visionmesh_engine_queue", "Images that wait for a model's engines.", _NAME
        )
        self.batch = images("visionmesh_batch_size", "Images in one batch of the engine.", _NAME)
        self.engine = seconds(
            "visionmesh_engine_seconds",
            "From an image's place in the queue of a version's engines to the network's outputs.",
            _VERSION,
        )
        self.shadow = counter(
            "visionmesh_shadow", "Images for a shadow version, by what became of them.", _SHADOWED
        )
        self.agreement = Summary(
            "visionmesh_agreement",
            "How much of an image's answer a shadow version agrees with, from 0 to 1.",
            _VERSION,
            registry=registry,
        )
        self.dead = counter("visionmesh_dead", "Images that ended on DEAD.", (*_MODEL, "reason"))

    def forget(self, model: str) -> None:
        """Drop the series of a model."""
        for metric in vars(self).values():
            metric.remove_by_labels({"model": model})


class WorkerTable:
    """The other metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, labelnames=_STAGE, registry=registry)
        self.cache = counter(
            "visionmesh_cache",
            "What became of look-ups in the cache and of values to be stored.",
            ("outcome",),
        )
        self.arena_used = gauge(
            "visionmesh_arena_used_bytes", "Bytes of the shared memory that hold an image."
        )
        self.arena_capacity = gauge(
            "visionmesh_arena_capacity_bytes", "Bytes of the shared memory that a stage writes to."
        )
        on_device = partial(Gauge, labelnames=(*_STAGE, "device"), registry=registry)
        self.device_arena_used = on_device(
            "visionmesh_device_arena_used_bytes", "Bytes of a GPU's memory that hold an image."
        )
        self.device_arena_capacity = on_device(
            "visionmesh_device_arena_capacity_bytes",
            "Bytes of a GPU's memory that a stage writes to, by the GPU's UUID.",
        )
        self.decoded = counter(
            "visionmesh_decoded",
            "Images by where they were decoded on behalf of a GPU, and why not there.",
            ("where", "why"),
        )
        self.in_flight = gauge("visionmesh_in_flight", "Images that a stage holds.")
        self.redeliveries = counter(
            "visionmesh_redeliveries", "Images that were sent back, to be tried again.", _STAGE
        )
        self.single_flight = counter(
            "visionmesh_single_flight", "Images that were answered by an identical one in flight."
        )


class ModelMetrics:
    """What a stage counts for one model."""

    def __init__(self, table: ModelTable, gpus: GpuTable, *, stage: str, model: str) -> None:
        self._table = table
        self._gpus = gpus
        self._stage = stage
        self._model = model
        self._requests: dict[tuple[str, str], Counter] = {}
        self._engines: dict[int, Callable[[float], None]] = {}
        self.inference = table.inference.labels(stage, model).observe
        """Seconds that the stage, or one run of the engine, took."""
        self.queued = table.queue.labels(stage, model).observe
        """Seconds that an image waited."""
        self.batch: Callable[[float], None] = table.batch.labels(model).observe
        """Images in a batch."""

    @cached_property
    def queue_depth(self) -> Callable[[float], None]:
        """Events that wait now."""
        return self._table.queue_depth.labels(self._stage, self._model, "").set

    @cached_property
    def engine_queue(self) -> Callable[[float], None]:
        """Images that wait for the engines now."""
        return self._table.engine_queue.labels(self._model).set

    def done(self, status: str, reason: str = "") -> None:
        """Count an image that ended here as ``ok``, ``error``, ``expired`` or ``retry``."""
        child = self._requests.get((status, reason))
        if child is None:
            child = self._table.requests.labels(self._stage, self._model, status, reason)
            self._requests[status, reason] = child
        child.inc()

    def engine(self, version: int, seconds: float) -> None:
        """Take the time that one image spent with the engines of a version, queue included."""
        observe = self._engines.get(version)
        if observe is None:
            observe = self._table.engine.labels(self._model, version).observe
            self._engines[version] = observe
        observe(seconds)

    def device(self, outcome: str, images: int) -> None:
        """Count images in a GPU's memory: ``reduced`` there, or brought ``home`` as they were."""
        self._gpus.images.labels(self._stage, self._model, outcome).inc(images)

    def shadowed(self, version: int, outcome: str, agreement: float | None = None) -> None:
        """Count an image for a shadow: ``compared`` (with its agreement), ``skipped``, ``lost``."""
        self._table.shadow.labels(self._model, version, outcome).inc()
        if agreement is not None:
            self._table.agreement.labels(self._model, version).observe(agreement)

    def halved(self) -> None:
        """Count an engine that runs half as many images at once from now on."""
        self._gpus.halvings.labels(self._model).inc()

    def evicted(self) -> None:
        """Count a version that gave way to another one."""
        self._gpus.evictions.labels(self._model).inc()

    def dead(self, reason: str) -> None:
        """Count an image that went to DEAD."""
        self._table.dead.labels(self._stage, self._model, reason).inc()


class Metrics:
    """The metrics of one process, which runs one stage.

    Labels are bounded: ``model`` by the models of the mesh (`forget` one that is gone), ``reason``
    by `visionmesh.errors.Code`.
    """

    def __init__(self, *, stage: str, registry: CollectorRegistry) -> None:
        self._stage = stage
        self._registry = registry
        self._by_model = ModelTable(registry)
        self._of_gpus = GpuTable(registry)
        self._table = WorkerTable(registry)
        self._models: dict[str, ModelMetrics] = {}
        self._cache: dict[str, Counter] = {}
        self._table.in_flight.labels(stage)
        self.redelivered = self._table.redeliveries.labels(stage).inc
        self.joined = self._table.single_flight.inc
        ProcessCollector(registry=registry)

    def model(self, name: str) -> ModelMetrics:
        """Return the counters of one model, the same object for the same name."""
        found = self._models.get(name)
        if found is None:
            found = ModelMetrics(self._by_model, self._of_gpus, stage=self._stage, model=name)
            self._models[name] = found
        return found

    def forget(self, name: str) -> None:
        """Drop the series of a model that the mesh no longer has."""
        self._models.pop(name, None)
        self._by_model.forget(name)
        self._of_gpus.forget(name)

    def cache(self, outcome: str, times: int = 1) -> None:
        """Count outcomes of the cache: `visionmesh.cache.Outcome`, and those of near frames."""
        child = self._cache.get(outcome)
        if child is None:
            child = self._cache[outcome] = self._table.cache.labels(outcome)
        child.inc(times)

    def decoded(self, where: str, why: str = "") -> None:
        """Count an image that was decoded on the ``device``, or on the ``host`` and why there."""
        self._table.decoded.labels(where, why).inc()

    def watch_queue(self, messages: Callable[[], int], *, model: str, lane: str) -> None:
        """Have ``messages`` asked at every scrape for how many wait in a lane.

        ``model`` is empty where a lane is that of all models.
        """
        self._by_model.queue_depth.labels(self._stage, model, lane).set_function(messages)

    def watch_in_flight(self, images: Callable[[], int]) -> None:
        """Have ``images`` asked at every scrape for how many are in hand."""
        self._table.in_flight.labels(self._stage).set_function(images)

    def watch_arena(self, *, used: Callable[[], int], capacity: int) -> None:
        """Have ``used`` asked at every scrape for how full the stage's own arena is, in bytes."""
        self._table.arena_used.labels(self._stage).set_function(used)
        self._table.arena_capacity.labels(self._stage).set(capacity)

    def watch_device_arena(self, *, used: Callable[[], int], capacity: int, device: str) -> None:
        """Do the same for an arena in the memory of the GPU with the UUID ``device``."""
        self._table.device_arena_used.labels(self._stage, device).set_function(used)
        self._table.device_arena_capacity.labels(self._stage, device).set(capacity)

    def watch_gpus(self, gpus: Callable[[], Sequence[GpuListing]]) -> None:
        """Have ``gpus`` asked at every scrape for those that the process may use."""
        self._registry.register(GpuCollector(gpus))

    def watch_spans(self, dropped: Callable[[], int]) -> None:
        """Have ``dropped`` asked at every scrape for how many records were lost so far."""
        self._registry.register(_DroppedSpans(dropped))

    def exposition(self) -> tuple[bytes, str]:
        """Return what a scrape answers, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


class _DroppedSpans(Collector):
    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "visionmesh_spans_dropped",
            "Records that no sink could take; one holds all spans of an image in a stage.",
            value=self._dropped(),
        )
