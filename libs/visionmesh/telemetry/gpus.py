"""The metrics of GPUs: what a model counts there, and what NVML last told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from visionmesh.gpu.listing import GpuListing

_LABELS = ("gpu", "name")


class GpuTable:
    """What is counted on GPUs for each model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.images = Counter(
            "visionmesh_device_images",
            "Images that lay in a GPU's memory, by what became of them: worked on there, or not.",
            ("stage", "model", "outcome"),
            registry=registry,
        )
        self.halvings = Counter(
            "visionmesh_batch_halvings",
            "Times that a GPU had too little memory for an engine's largest batch, which is half "
            "as large for a while.",
            ("model",),
            registry=registry,
        )
        self.evictions = Counter(
            "visionmesh_evictions",
            "Versions that left a GPU's memory to others until their next image.",
            ("model",),
            registry=registry,
        )

    def forget(self, model: str) -> None:
        """Drop the series of a model."""
        for metric in (self.images, self.halvings, self.evictions):
            metric.remove_by_labels({"model": model})


class GpuCollector(Collector):
    """Gauges for each GPU that the process may use, ``gpu`` being its UUID, and for its slices."""

    def __init__(self, gpus: Callable[[], Sequence[GpuListing]]) -> None:
        self._gpus = gpus

    def collect(self) -> Iterator[Metric]:
        total = _gauge("memory_total_bytes", "Bytes of memory that a GPU has.")
        used = _gauge("memory_used_bytes", "Bytes of a GPU's memory in use, by any process.")
        busy = _gauge("utilization_ratio", "Share of the time in which a GPU ran something.")
        temperature = _gauge("temperature_celsius", "A GPU's temperature.")
        healthy = _gauge("healthy", "1, or 0 if a GPU must not be used.")
        for gpu in self._gpus():
            _add(total, gpu.uuid, gpu.name, gpu.memory_total)
            _add(used, gpu.uuid, gpu.name, gpu.memory_used)
            for part in gpu.slices:
                name = f"{gpu.name} MIG {part.profile}"
                _add(total, part.uuid, name, part.memory_total)
                _add(used, part.uuid, name, part.memory_used)
            _add(busy, gpu.uuid, gpu.name, gpu.utilization)
            _add(temperature, gpu.uuid, gpu.name, gpu.temperature)
            _add(healthy, gpu.uuid, gpu.name, gpu.healthy)
        yield from (total, used, busy, temperature, healthy)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"visionmesh_gpu_{name}", text, labels=_LABELS)


def _add(gauge: GaugeMetricFamily, uuid: str, name: str, value: float | None) -> None:
    if value is not None:
        gauge.add_metric((uuid, name), float(value))
