"""What the server and its models say of themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import version as release_of
from typing import Any

from services.ingest.oip.binary import IMAGE
from services.ingest.oip.tensors import BYTES, DATATYPES
from services.ingest.tensors import input_meta
from visionmesh.contracts import PIXELS, TensorMeta
from visionmesh.models.record import ModelRecord, VersionRecord
from visionmesh.models.spec import Task

Document = dict[str, Any]

RESULTS = "results"
"""The output that is one JSON document for each image."""
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
PLATFORM = "onnxruntime_onnx"
_ANY = -1
"""A size that is not known beforehand."""
_ULTRALYTICS_TASKS = {
    Task.CLASSIFICATION: "classify",
    Task.DETECTION: "detect",
    Task.SEGMENTATION: "segment",
}
_ULTRALYTICS_DECODERS = {"obb": "obb", "yolov8_seg": "segment"}
_STRIDE = 32
"""The largest stride of the heads that Ultralytics knows; input sizes are multiples of it."""


def server() -> Document:
    return {
        "name": "visionmesh",
        "version": release_of("visionmesh"),
        "extensions": list(EXTENSIONS),
    }


def usual_version(record: ModelRecord) -> int:
    """Return the version that gets most images; of equal ones the newest."""
    shares = record.shares
    return max(shares, key=lambda number: (shares[number], number))


def input_tensor(version: VersionRecord) -> TensorMeta:
    """Return the network's own input for one image, without the batch."""
    return input_meta(version.input_name, version.input)


def metadata(record: ModelRecord, number: int) -> Document:
    version = record.version(number)
    own = [(meta.name, meta.dtype, meta.shape) for meta in (input_tensor(version),)]
    return {
        "name": record.spec.name,
        "versions": [str(other) for other in sorted(record.versions)],
        "platform": PLATFORM,
        "inputs": [
            {"name": IMAGE, "datatype": BYTES, "shape": [_ANY]},
            {"name": PIXELS, "datatype": "UINT8", "shape": [_ANY, _ANY, _ANY, 3]},
            *(_tensor(name, dtype, shape) for name, dtype, shape in own),
        ],
        "outputs": [
            *(_tensor(output.name, output.dtype, output.shape) for output in version.outputs),
            {"name": RESULTS, "datatype": BYTES, "shape": [_ANY]},
        ],
    }


def config(record: ModelRecord, number: int) -> Document:
    """Return the configuration: the network's own tensors only, as clients expect numbers of all.

    ``parameters.metadata`` is what Ultralytics' ``YOLO("http://…")`` reads: a Python literal.
    """
    version = record.version(number)
    own = input_tensor(version)
    return {
        "name": record.spec.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": list(record.shares)}},
        "max_batch_size": record.spec.batching.max_size,
        "input": [
            {
                "name": own.name,
                "data_type": _type(own.dtype),
                "format": f"FORMAT_{version.input.layout}",
                "dims": list(own.shape),
            }
        ],
        "output": [
            {"name": one.name, "data_type": _type(one.dtype), "dims": list(one.shape)}
            for one in version.outputs
        ],
        "default_model_filename": "model.onnx",
        "parameters": {"metadata": {"string_value": repr(_ultralytics(record, version))}},
    }


def index(
    records: Iterable[ModelRecord], *, ready: Mapping[str, Collection[int]]
) -> list[Document]:
    """Return every version of the models, and whether it answers; ``ready``: those that do."""
    return [
        _indexed(record, number, number in ready.get(record.spec.name, ()))
        for record in records
        for number in sorted(record.versions)
    ]


def _indexed(record: ModelRecord, number: int, ready: bool) -> Document:
    document = {"name": record.spec.name, "version": str(number)}
    if ready:
        return document | {"state": "READY"}
    if record.parked:
        return document | {"state": "UNAVAILABLE", "reason": "unloaded"}
    reason = "loading" if number in record.wanted else "gets no images"
    return document | {"state": "UNAVAILABLE", "reason": reason}


def _ultralytics(record: ModelRecord, version: VersionRecord) -> Document:
    input = version.input
    usual = _ULTRALYTICS_TASKS.get(record.spec.task, record.spec.task.value)
    told: Document = {
        "description": record.spec.description,
        "task": _ULTRALYTICS_DECODERS.get(version.output.decoder, usual),
        "stride": _STRIDE,
        "batch": version.batch or 1,
        "imgsz": [input.height, input.width],
        "channels": input.channels,
        "args": {"nms": version.output.decoder == "end2end"},
    }
    if version.labels:
        told["names"] = dict(enumerate(version.labels))
    return told


def _tensor(name: str, dtype: str, shape: Iterable[int]) -> Document:
    return {"name": name, "datatype": DATATYPES[dtype], "shape": [_ANY, *shape]}


def _type(dtype: str) -> str:
    return f"TYPE_{DATATYPES[dtype]}"
