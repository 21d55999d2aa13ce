"""What a push makes of a folder and of the record that the mesh has already."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from visionmesh.errors import Code, ConfigurationError, Refused
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.check import inspect
from visionmesh.models.folder import ModelFolder
from visionmesh.models.record import ModelRecord, VersionRecord, feature_digest
from visionmesh.models.spec import ModelSpec
from visionmesh.models.traffic import Traffic
from visionmesh.models.variants import VARIANTS_FILE, Variants, read_variants


@dataclass(frozen=True, kw_only=True)
class VersionFiles:
    """The files of one version that are to be stored."""

    weights: Path
    sha256: str
    """Of ``weights``."""
    variants: Variants | None
    """None also if those in the folder were made from another network."""

    @property
    def objects(self) -> dict[str, Path]:
        """All files, by the SHA-256 of each."""
        artifacts = self.variants.artifacts if self.variants else ()
        beside = {one.sha256: self.weights.parent / one.file for one in artifacts}
        return {self.sha256: self.weights} | beside


def selected(folder: ModelFolder, version: int | None) -> dict[int, VersionFiles]:
    """Return the files to push, and read them once for their hashes.

    Raises
    ------
    Refused
        (unknown_version) if the folder lacks the version.
    ConfigurationError
        (model_invalid) if ``variants.json`` is not as it must be.
    """
    chosen = folder.versions
    if version is not None:
        if version not in folder.versions:
            there = ", ".join(map(str, folder.versions))
            raise Refused(
                Code.UNKNOWN_VERSION,
                f"The folder of {folder.spec.name!r} has no version {version}; it has: {there}.",
            )
        chosen = {version: folder.versions[version]}
    return {number: _read(file) for number, file in chosen.items()}


def _read(weights: Path) -> VersionFiles:
    sha256 = file_sha256(weights)
    variants = read_variants(weights.parent)
    if variants is not None and variants.of != sha256:
        variants = None
    for artifact in variants.artifacts if variants else ():
        if file_sha256(weights.parent / artifact.file) != artifact.sha256:
            shown = Path(*weights.parts[-3:-1])
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"{shown}: {artifact.file} is not the file that {VARIANTS_FILE} tells of; "
                "run `visionmesh optimize` again.",
            )
    return VersionFiles(weights=weights, sha256=sha256, variants=variants)


async def merged(
    folder: ModelFolder, old: ModelRecord | None, files: dict[int, VersionFiles]
) -> ModelRecord:
    """Return the record that ``old`` becomes; files that are new or newly described are checked.

    The weights of the folder's ``traffic`` are taken when they say something new. Otherwise those
    in the record stay, so that a push does not undo what was told to the mesh since.

    Raises
    ------
    ConfigurationError
        (model_invalid) if a network does not fit the spec, or traffic names a missing version.
    """
    spec = folder.spec
    versions = dict(old.versions) if old else {}
    for number, pushed in files.items():
        known = versions.get(number)
        if not (old and known and known.sha256 == pushed.sha256 and old.spec == spec):
            known = await _version(spec, pushed)
        versions[number] = known.model_copy(update={"variants": pushed.variants})
    for number in spec.traffic:
        if number not in versions:
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"{spec.name}/model.yaml: traffic.{number}: there is no version {number}; "
                "push it, or take it out of traffic.",
            )
    record = ModelRecord(
        spec=spec,
        # The decoder's settings are part of the digests, and the same for all versions.
        versions={number: _digested(versions[number], spec) for number in sorted(versions)},
        traffic=_traffic(spec, old),
        card=folder.card,
    )
    return record.after(old)


def _digested(version: VersionRecord, spec: ModelSpec) -> VersionRecord:
    digest = feature_digest(version.sha256, spec.output, version.variants)
    return version.model_copy(update={"digest": digest})


def _traffic(spec: ModelSpec, old: ModelRecord | None) -> Traffic:
    if old is None:
        return Traffic(weights=spec.traffic)
    if not spec.traffic or spec.traffic == old.spec.traffic:
        return old.traffic
    shadow = None if spec.traffic.get(old.traffic.shadow or 0) else old.traffic.shadow
    return old.traffic.model_copy(update={"weights": spec.traffic, "shadow": shadow})


async def _version(spec: ModelSpec, files: VersionFiles) -> VersionRecord:
    signature = await asyncio.to_thread(inspect, files.weights, spec)
    return VersionRecord(
        sha256=files.sha256,
        size_bytes=(await asyncio.to_thread(files.weights.stat)).st_size,
        digest="",
        pushed_at=datetime.now(UTC),
        batch=signature.batch,
        outputs=signature.output_images,
    )
