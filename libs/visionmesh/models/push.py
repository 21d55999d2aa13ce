"""What a push makes of a folder and of the record that the mesh has already."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from visionmesh.contracts import TensorMeta
from visionmesh.errors import Code, ConfigurationError, Refused
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.check import inspect
from visionmesh.models.folder import PROGRAM_FILE, ModelFolder
from visionmesh.models.record import ModelRecord, StoredProgram, VersionRecord
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
    program: StoredProgram | None = None

    @property
    def objects(self) -> dict[str, Path]:
        """All files, by the SHA-256 of each."""
        artifacts = self.variants.artifacts if self.variants else ()
        beside = {one.sha256: self.weights.parent / one.file for one in artifacts}
        programs = {self.program.sha256: self.program_file} if self.program else {}
        return {self.sha256: self.weights} | beside | programs

    @property
    def program_file(self) -> Path:
        return self.weights.parent / PROGRAM_FILE


def selected(folder: ModelFolder, version: int | None) -> dict[int, VersionFiles]:
    """Return the files to push, and read them once for their hashes.

    Raises
    ------
    Refused
        (unknown_version) if the folder lacks the version.
    ConfigurationError
        (model_invalid) if ``variants.json`` is not as it must be.
    """
    chosen = folder.versions if version is None else dict([folder.pick(version)])
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
    program = _program(weights.parent / PROGRAM_FILE)
    return VersionFiles(weights=weights, sha256=sha256, variants=variants, program=program)


def _program(file: Path) -> StoredProgram | None:
    if not file.is_file():
        return None
    if not file.resolve().is_relative_to(file.parents[1].resolve()):
        shown = Path(*file.parts[-3:])
        raise ConfigurationError(
            Code.MODEL_INVALID, f"{shown} links out of the model's folder; copy it there."
        )
    return StoredProgram(sha256=file_sha256(file), size_bytes=file.stat().st_size)


async def merged(
    folder: ModelFolder,
    old: ModelRecord | None,
    files: dict[int, VersionFiles],
    *,
    replace: bool = False,
) -> ModelRecord:
    """Return the record that ``old`` becomes; files that are new or newly described are checked.

    The folder's input, output and labels become those of the versions in ``files``; all others keep
    theirs. The weights of the folder's ``traffic`` are taken when they say something new. Otherwise
    those in the record stay, so that a push does not undo what was told to the mesh since.

    Raises
    ------
    ConfigurationError
        (model_invalid) if a network does not fit the spec, or traffic names a missing version.
    Refused
        (version_exists) if a version has another network in the mesh, unless ``replace``;
        (model_exists) if versions that stay have another task.
    """
    spec = folder.spec
    versions = dict(old.versions) if old else {}
    if old and old.spec.task != spec.task and versions.keys() - files.keys():
        raise Refused(
            Code.MODEL_EXISTS,
            f"{spec.name!r} does {old.spec.task} in the mesh, and the folder says {spec.task}; "
            "push it under another name, or remove the old one.",
        )
    for number, pushed in files.items():
        known = versions.get(number)
        if known and known.sha256 != pushed.sha256 and not replace:
            raise Refused(
                Code.VERSION_EXISTS,
                f"Version {number} of {spec.name!r} is another network in the mesh; name this one "
                f"{max(versions) + 1}, so that there is a way back, or insist with --replace.",
            )
        versions[number] = await _version(spec, pushed, known)
    _require_targets(spec, versions)
    record = ModelRecord(
        spec=spec,
        versions={number: versions[number] for number in sorted(versions)},
        traffic=_traffic(spec, old),
        card=folder.card,
    )
    return record.after(old)


def _traffic(spec: ModelSpec, old: ModelRecord | None) -> Traffic:
    if old is None:
        return Traffic(weights=spec.traffic)
    if not spec.traffic or spec.traffic == old.spec.traffic:
        return old.traffic
    shadow = None if spec.traffic.get(old.traffic.shadow or 0) else old.traffic.shadow
    return old.traffic.model_copy(update={"weights": spec.traffic, "shadow": shadow})


def _require_targets(spec: ModelSpec, versions: Collection[int]) -> None:
    for number in spec.traffic:
        if number not in versions:
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"{spec.name}/model.yaml: traffic.{number}: there is no version {number}; "
                "push it, or take it out of traffic.",
            )


async def _version(
    spec: ModelSpec, files: VersionFiles, known: VersionRecord | None
) -> VersionRecord:
    """Return what is recorded of ``files``; the network is looked at only if that is not known."""
    if known is None or known.sha256 != files.sha256 or not known.fits(spec):
        known = await _inspected(spec, files)
    if files.program is not None and files.program != known.program:
        await asyncio.to_thread(_require_program, files.program_file, spec, known.outputs)
    # Not a copy, which would keep the digests of the old variants.
    told = known.model_dump() | {"variants": files.variants, "program": files.program}
    return VersionRecord.model_validate(told)


def _require_program(file: Path, spec: ModelSpec, outputs: Sequence[TensorMeta]) -> None:
    """Raise `ConfigurationError` unless the program is safe, and takes and gives what ONNX does."""
    from visionmesh.models.importing.programs import require_fitting  # noqa: PLC0415 - few have a program

    require_fitting(file, spec, tuple(meta.name for meta in outputs))


async def _inspected(spec: ModelSpec, files: VersionFiles) -> VersionRecord:
    signature = await asyncio.to_thread(inspect, files.weights, spec)
    return VersionRecord(
        sha256=files.sha256,
        size_bytes=(await asyncio.to_thread(files.weights.stat)).st_size,
        pushed_at=datetime.now(UTC),
        input=spec.input,
        output=spec.output,
        labels=spec.labels,
        batch=signature.batch,
        input_name=signature.inputs[0].name,
        outputs=signature.output_images,
    )
