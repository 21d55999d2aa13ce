"""What follows from the records of workers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from visionmesh.node_records import LoadedVersion, NodeRecord, places_of


def worker(node: str, **more: Any) -> NodeRecord:
    return NodeRecord(
        node=node, stage="infer", pid=1, worker=node, since=datetime.now(UTC), ready=True, **more
    )


def loaded(model: str, *devices: str) -> LoadedVersion:
    return LoadedVersion(
        model=model,
        version=1,
        devices=devices,
        engine="onnxruntime",
        precision="fp32",
        copies=1,
        memory_bytes=1,
        since=datetime.now(UTC),
    )


def test_a_node_is_known_by_the_kinds_of_devices_that_run_the_model_there() -> None:
    records = [
        worker(
            "a", models={"cats": (1,)}, loaded=(loaded("cats", "cuda:1"), loaded("dogs", "cpu"))
        ),
        worker("b", models={"cats": (1,)}, loaded=(loaded("cats", "cpu"),)),
        worker("c", models={"cats": (1,)}),
        worker("d", models={"dogs": (1,)}, loaded=(loaded("dogs", "cuda"),)),
    ]
    kinds = {node: place.devices for node, place in places_of(records, "cats").items()}
    assert kinds == {"a": {"cuda"}, "b": {"cpu"}, "c": {"cpu"}}
