"""A scrape tells what NVML last said of GPUs."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from visionmesh.gpu.listing import GpuListing, GpuSlice
from visionmesh.telemetry.metrics import Metrics


def test_each_gpu_and_each_slice_has_its_gauges() -> None:
    part = GpuSlice(uuid="MIG-1", profile="1g.10gb", memory_total=10, memory_used=1)
    gpus = [
        GpuListing(
            index=0,
            uuid="GPU-0",
            name="NVIDIA H100",
            memory_total=80,
            memory_used=60,
            utilization=0.5,
            temperature=44,
            slices=(part,),
        )
    ]
    metrics = Metrics(stage="infer", registry=CollectorRegistry())
    metrics.watch_gpus(lambda: gpus)
    assert scrape(metrics) == {
        ("memory_total_bytes", "GPU-0", "NVIDIA H100"): 80,
        ("memory_used_bytes", "GPU-0", "NVIDIA H100"): 60,
        ("memory_total_bytes", "MIG-1", "NVIDIA H100 MIG 1g.10gb"): 10,
        ("memory_used_bytes", "MIG-1", "NVIDIA H100 MIG 1g.10gb"): 1,
        ("utilization_ratio", "GPU-0", "NVIDIA H100"): 0.5,
        ("temperature_celsius", "GPU-0", "NVIDIA H100"): 44,
        ("healthy", "GPU-0", "NVIDIA H100"): 1,
    }

    gpus[:] = [GpuListing(index=0, uuid="GPU-0", name="NVIDIA H100", unfit="it is lost")]
    assert scrape(metrics) == {("healthy", "GPU-0", "NVIDIA H100"): 0}


def test_what_is_counted_of_a_model_on_gpus_is_forgotten_with_it() -> None:
    labels = 'model="boards",outcome="{}",stage="infer"'
    metrics = Metrics(stage="infer", registry=CollectorRegistry())
    for name in ("faces", "boards"):
        model = metrics.model(name)
        model.device("reduced", 8)
        model.device("reduced", 1)
        model.device("home", 2)
        model.halved()
        model.evicted()
    metrics.forget("faces")
    text = metrics.exposition()[0].decode()
    for outcome, images in (("reduced", 9), ("home", 2)):
        assert f"visionmesh_device_images_total{{{labels.format(outcome)}}} {images}" in text
    assert 'visionmesh_batch_halvings_total{model="boards"} 1' in text
    assert 'visionmesh_evictions_total{model="boards"} 1' in text
    assert "faces" not in text


def scrape(metrics: Metrics) -> dict[tuple[str, str, str], float]:
    prefix = "visionmesh_gpu_"
    return {
        (sample.name.removeprefix(prefix), sample.labels["gpu"], sample.labels["name"]): value
        for family in text_string_to_metric_families(metrics.exposition()[0].decode())
        for sample in family.samples
        if sample.name.startswith(prefix) and (value := sample.value) is not None
    }
