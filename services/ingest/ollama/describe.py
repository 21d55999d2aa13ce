"""Models as Ollama tells them: a line of `list`, of `ps`, and all of `show`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from services.ingest.ollama.names import Name
from visionmesh.models.record import ModelRecord, VersionRecord
from visionmesh.models.spec import Task
from visionmesh.nodes import LoadedVersion

FOR_EVER = timedelta(days=365 * 292)
"""What Ollama tells of a model that stays: the longest time of its programming language."""
_BYTES = {"float32": 4, "float16": 2, "uint8": 1}
_LEVELS = {"float32": "F32", "float16": "F16", "uint8": "I8"}
_MILLION = 1_000_000
_SETTINGS = ("confidence", "iou", "top_k", "max_detections")


def tags(records: Iterable[ModelRecord]) -> dict[str, Any]:
    """Return the body of ``/api/tags``: every model, and its versions where it has several."""
    models = []
    for record in records:
        name = record.spec.name
        models.append(_line(record, Name(name), sum(_sizes(record).values())))
        if len(record.versions) > 1:
            models += [
                _line(record, Name(name, number), version.size_bytes)
                for number, version in record.versions.items()
            ]
    return {"models": models}


def running(records: Iterable[ModelRecord], loaded: Iterable[LoadedVersion]) -> dict[str, Any]:
    """Return the body of ``/api/ps``: what workers have in memory, all of them together."""
    known = {record.spec.name: record for record in records}
    sizes: dict[Name, list[int]] = {}
    for one in loaded:
        if one.model in known and one.version in known[one.model].versions:
            total = sizes.setdefault(Name(one.model, one.version), [0, 0])
            total[0] += one.memory_bytes
            total[1] += one.memory_bytes if any(d != "cpu" for d in one.devices) else 0
    models = []
    for name, (size, on_device) in sorted(sizes.items(), key=lambda item: str(item[0])):
        record = known[name.model]
        stays = record.spec.keep_alive or FOR_EVER
        shown = name if len(record.versions) > 1 else Name(name.model)
        models.append(
            _line(record, shown, size)
            | {
                "expires_at": (datetime.now(UTC) + stays).isoformat(),
                "size_vram": on_device,
                "context_length": 1,
            }
        )
    return {"models": models}


def show(record: ModelRecord, name: Name) -> dict[str, Any]:
    """Return the body of ``/api/show``.

    Its command line prints the lengths of a context and of an embedding: they are 1 image, and
    the values of the last output.
    """
    number, version = _version(record, name)
    spec = record.spec_of(number)
    architecture = _family(version)
    settings = {key: getattr(spec.output, key) for key in _SETTINGS}
    lines = [f"{key} {value}" for key, value in settings.items()]
    last = version.outputs[-1].shape[-1] if version.outputs and version.outputs[-1].shape else 0
    return {
        "license": "",
        "modelfile": "\n".join([f"FROM {name}", *(f"PARAMETER {line}" for line in lines)]),
        "parameters": "\n".join(lines),
        "template": "{{ .Prompt }}",
        "details": _details(version),
        "model_info": {
            "general.architecture": architecture,
            "general.name": spec.name,
            "general.description": record.card or spec.description,
            "general.parameter_count": _parameters(version),
            f"{architecture}.context_length": 1,
            f"{architecture}.embedding_length": max(last, 0),
            f"{architecture}.task": spec.task,
            f"{architecture}.version": number,
            f"{architecture}.input": version.input.model_dump(mode="json"),
            f"{architecture}.labels": list(version.labels),
        },
        "capabilities": _capabilities(spec.task),
        "modified_at": version.pushed_at.isoformat(),
    }


def _capabilities(task: Task) -> list[str]:
    return ["embedding", "vision"] if task is Task.EMBEDDING else ["completion", "vision"]


def _line(record: ModelRecord, name: Name, size: int) -> dict[str, Any]:
    _, version = _version(record, name)
    return {
        "name": str(name),
        "model": str(name),
        "modified_at": version.pushed_at.isoformat(),
        "size": size,
        "digest": _digest(record, name),
        "details": _details(version),
    }


def _version(record: ModelRecord, name: Name) -> tuple[int, VersionRecord]:
    number = record.newest if name.version is None else name.version
    return number, record.version(number)


def _digest(record: ModelRecord, name: Name) -> str:
    """Return a hash that changes with what the name stands for."""
    if name.version is None:
        told = record.model_dump_json(exclude={"parked"})
    else:
        told = record.version(name.version).model_dump_json()
    return hashlib.sha256(told.encode()).hexdigest()


def _details(version: VersionRecord) -> dict[str, Any]:
    family = _family(version)
    return {
        "parent_model": "",
        "format": "onnx",
        "family": family,
        "families": [family],
        "parameter_size": f"{_parameters(version) / _MILLION:.2f}M",
        "quantization_level": _LEVELS[version.input.dtype],
    }


def _family(version: VersionRecord) -> str:
    """Return the decoder's name, also that of one of the user's own."""
    return version.output.decoder.replace(":", ".")


def _parameters(version: VersionRecord) -> int:
    """Return about how many parameters the network has, by the size of its file."""
    return version.size_bytes // _BYTES[version.input.dtype]


def _sizes(record: ModelRecord) -> dict[str, int]:
    return {
        sha: size for version in record.versions.values() for sha, size in version.objects.items()
    }
