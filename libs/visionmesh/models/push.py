"""What a push makes of a folder and of the record that the mesh has already."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from visionmesh.errors import Code, ConfigurationError, Refused
from visionmesh.models.check import inspect
from visionmesh.models.folder import ModelFolder
from visionmesh.models.record import ModelRecord, VersionRecord, feature_digest
from visionmesh.models.spec import ModelSpec


def selected(folder: ModelFolder, version: int | None) -> dict[int, Path]:
    """Return the files to push; raise `Refused` (unknown_version) if the folder lacks it."""
    if version is None:
        return folder.versions
    if version not in folder.versions:
        there = ", ".join(map(str, folder.versions))
        raise Refused(
            Code.UNKNOWN_VERSION,
            f"The folder of {folder.spec.name!r} has no version {version}; it has: {there}.",
        )
    return {version: folder.versions[version]}


async def merged(
    spec: ModelSpec, old: ModelRecord | None, files: dict[int, Path], hashes: dict[int, str]
) -> ModelRecord:
    """Return the record that ``old`` becomes; files that are new or newly described are checked.

    Raises
    ------
    ConfigurationError
        (model_invalid) if a network does not fit ``spec``, or traffic names a missing version.
    """
    versions = dict(old.versions) if old else {}
    for number, file in files.items():
        known = versions.get(number)
        if not (old and known and known.sha256 == hashes[number] and old.spec == spec):
            versions[number] = await _version(spec, file, hashes[number])
    # The decoder's settings are part of the digests, and the same for all versions.
    versions = {
        number: version.model_copy(update={"digest": feature_digest(version.sha256, spec.output)})
        for number, version in sorted(versions.items())
    }
    for number in spec.traffic:
        if number not in versions:
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"{spec.name}/model.yaml: traffic.{number}: there is no version {number}; "
                "push it, or take it out of traffic.",
            )
    return ModelRecord(spec=spec, versions=versions)


async def _version(spec: ModelSpec, file: Path, sha256: str) -> VersionRecord:
    signature = await asyncio.to_thread(inspect, file, spec)
    return VersionRecord(
        sha256=sha256,
        size_bytes=(await asyncio.to_thread(file.stat)).st_size,
        digest="",
        pushed_at=datetime.now(UTC),
        batch=signature.batch,
        outputs=signature.output_images,
    )
