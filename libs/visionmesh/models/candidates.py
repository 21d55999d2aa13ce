"""The ways to run a version that can be tried on this machine; all of them keep its cores busy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from services.infer.engines import Engine
from visionmesh.cpu import computes_bf16, cpu_features
from visionmesh.models.folder import WEIGHTS_FILE
from visionmesh.models.spec import Instance
from visionmesh.models.variants import Artifact, Measured, Precision
from visionmesh.workbench import Workbench, cores


def ways(artifacts: Iterable[Artifact]) -> Iterator[tuple[Measured, Measured]]:
    """Yield each engine and precision with a copy on every core, and with one; the plain way first.

    Both ways of a pair give the same answers.
    """
    plain, fast = Precision.FP32, Precision.INT8
    kinds = [("onnxruntime", plain, WEIGHTS_FILE), ("openvino", plain, WEIGHTS_FILE)]
    if computes_bf16(cpu_features()):
        kinds.append(("openvino", Precision.BF16, WEIGHTS_FILE))
    for artifact in artifacts:
        if artifact.scheme == "u8s8":
            kinds += [("onnxruntime", fast, artifact.file), ("openvino", fast, artifact.file)]
    for engine, precision, file in kinds:
        many = Measured.model_validate(
            {"engine": engine, "precision": precision, "file": file}
            | {"threads": 1, "count": cores()}
        )
        yield many, _shaped(many, cores())


def between(way: Measured) -> list[Measured]:
    """Return ``way`` with every number of threads between one and all that divides the cores."""
    shared = (threads for threads in range(2, cores()) if cores() % threads == 0)
    return [_shaped(way, threads) for threads in shared]


def open_way(bench: Workbench, network: Path, way: Measured) -> tuple[Engine, ...]:
    """Return the cold engines of ``way``; raise `ConfigurationError` if there can be none."""
    return bench.open_all(
        network.parent / way.file,
        Instance(threads=way.threads),
        count=way.count,
        engine=way.engine,
        precision=way.precision,
    )


def _shaped(way: Measured, threads: int) -> Measured:
    return way.model_copy(update={"threads": threads, "count": cores() // threads})
