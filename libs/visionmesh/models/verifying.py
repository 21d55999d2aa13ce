"""Whether a version's networks are right: each for itself, and compared with what it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from services.infer.engines import Engine
from visionmesh.contracts import Frozen
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.check import inspect
from visionmesh.models.completing import COMPLETE_FILE, complete_checks
from visionmesh.models.examining import Examiner, Reference, Verified, checked
from visionmesh.models.folder import WEIGHTS_FILE, ModelFolder, load_folder
from visionmesh.models.pictures import Picture, gather
from visionmesh.models.push import VersionFiles
from visionmesh.models.running import Running, running_here
from visionmesh.models.soundness import Check, engine_checks, flaws
from visionmesh.models.spec import Batching, ModelSpec
from visionmesh.models.trial import Subject, cpu_name, drawn
from visionmesh.models.variants import VARIANTS_FILE, Precision, read_variants
from visionmesh.workbench import Workbench

_DRAWN = 8
"""Images that are made up where none are given."""
_QUICK = 2
"""Images, and the largest batch, of `quick`."""


class Verification(Frozen):
    """The answer of `verify`."""

    model: str
    version: int
    images: int
    real: bool
    """Whether they were given; made-up ones say little about equal answers."""
    cpu: str
    networks: tuple[Verified, ...]
    not_run: str | None
    """The tuned way and why workers here do not run it, if they do not."""
    passed: bool


_OUTDATED = Check(
    name="current",
    passed=False,
    told=f"not what {VARIANTS_FILE} tells of, or made from another network: optimize again",
)


def verify(
    folder: ModelFolder,
    *,
    version: int | None = None,
    images: Path | None = None,
    against: Path | None = None,
    most: int = 200,
    said: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Examine the network of a version (by default the newest) and what was made of it.

    ``images`` is a folder of up to ``most`` images; without it some are made up. ``against`` is
    what the network came from: an ONNX file that takes the same input, or another model's folder.

    Raises
    ------
    ConfigurationError
        (model_invalid) if the network or what it is compared with cannot be loaded, or the network
        does not fit the folder's spec;
        (images_missing).
    Refused
        (unknown_version) if the folder lacks the version.
    """
    number, weights = folder.pick(version)
    inspect(weights, folder.spec)
    bench = Workbench(folder.spec)
    pictures = gather(images, bench, most=most) if images else _made_up(folder.spec)
    examiner = Examiner(bench=bench, pictures=pictures, real=images is not None, said=said)
    origin = None if against is None else _origin(against, bench)
    first = examiner.examine(weights, Running(), origin)
    reference = Reference(
        name=weights.name,
        subject=Subject(bench=bench, engine=bench.open(weights)),
        same=False,
    )
    stored = VersionFiles(
        weights=weights, sha256=file_sha256(weights), variants=read_variants(weights.parent)
    )
    networks = [first, *_made(examiner, stored, reference)]
    if checks := complete_checks(bench, reference.subject.engine, weights, pictures):
        networks.append(checked(COMPLETE_FILE, *checks))
    return Verification(
        model=folder.spec.name,
        version=number,
        images=len(pictures),
        real=images is not None,
        cpu=cpu_name(),
        networks=tuple(networks),
        not_run=_not_run(folder.spec, stored),
        passed=all(network.passed for network in networks),
    )


def quick(spec: ModelSpec, stored: VersionFiles) -> None:
    """Run a network on made-up images: what no push should let through shows in a second.

    What a worker on this machine would run in its place is tried, too, if it can be loaded.

    Raises
    ------
    ConfigurationError
        (verification_failed) if outputs are not finite, no answer can be made of them, a second
        run gives others, or an image's outputs depend on its batch; (model_invalid) if the network
        does not run.
    """
    largest = min(_QUICK, spec.batching.max_size)
    bench = Workbench(spec.model_copy(update={"batching": Batching(max_size=largest)}))
    shown = f"{spec.name}/{stored.weights.parent.name}"
    _require_sound(bench, bench.open(stored.weights), f"{shown}/{stored.weights.name}")
    here = running_here(spec, stored)
    if not here.plain:
        file = stored.objects[here.sha256]
        try:
            engine = here.running.open(bench, file)
        except ConfigurationError:  # then workers run the network as it was, too
            return
        _require_sound(bench, engine, f"{shown}/{file.name} ({here.running})")


def _require_sound(bench: Workbench, engine: Engine, shown: str) -> None:
    samples = [bench.sample(drawn(bench.spec.input, seed)) for seed in range(_QUICK)]
    # What was pushed may have been quantised elsewhere.
    checks = engine_checks(bench, engine, samples, Precision.INT8)
    engine.close()
    if failed := flaws(checks):
        raise ConfigurationError(
            Code.VERIFICATION_FAILED,
            f"{shown} is not fit to serve ({failed}); `visionmesh verify` tells more.",
        )


def _made(examiner: Examiner, stored: VersionFiles, reference: Reference) -> Iterator[Verified]:
    """Examine smaller networks, and what a worker here would run, if it is none of these."""
    variants, folder = stored.variants, stored.weights.parent
    if variants is None:
        return
    current = variants.of == stored.sha256
    examined = [(stored.sha256, Running())]
    for artifact in variants.artifacts:
        file = folder / artifact.file
        if current and file_sha256(file) == artifact.sha256:
            running = Running(precision=artifact.precision)
            examined.append((artifact.sha256, running))
            yield examiner.examine_made(file, running, reference)
        else:
            yield checked(artifact.file, _OUTDATED)
    if variants.choice and not current:
        yield checked(VARIANTS_FILE, _OUTDATED)
    here = running_here(examiner.bench.spec, stored)
    if not here.plain and (here.sha256, here.running) not in examined:
        found = examiner.examine_made(stored.objects[here.sha256], here.running, reference)
        yield found.model_copy(update={"way": str(here.running)})


def _not_run(spec: ModelSpec, stored: VersionFiles) -> str | None:
    choice = stored.variants.choice if stored.variants else None
    here = running_here(spec, stored)
    if choice is None or not here.plain:
        return None
    return f"{choice.engine} {choice.precision}: {here.why}"


def _origin(against: Path, bench: Workbench) -> Reference:
    if not against.is_dir():
        subject = Subject(bench=bench, engine=bench.open(against))
        return Reference(name=against.name, subject=subject, same=True)
    folder = load_folder(against)
    number, weights = folder.pick(None)
    other = Workbench(folder.spec)
    subject = Subject(bench=other, engine=other.open(weights))
    return Reference(name=f"{folder.spec.name}/{number}/{WEIGHTS_FILE}", subject=subject, same=True)


def _made_up(spec: ModelSpec) -> list[Picture]:
    """Return images of the input's size, twice as wide, and twice as high."""
    size = spec.input
    sizes = [
        size.model_copy(update={"width": size.width * across, "height": size.height * down})
        for across, down in ((1, 1), (2, 1), (1, 2))
    ]
    return [Picture(drawn(sizes[seed % len(sizes)], seed), None) for seed in range(_DRAWN)]
