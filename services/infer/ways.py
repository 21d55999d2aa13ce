"""How a worker runs a version: as was measured to be fast, or as any machine can."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.infer.engines import OF_PROGRAMS, TENSORRT, engines_of
from services.infer.precisions import Made, for_tensorrt
from visionmesh.cpu import multiplies_bytes
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu.opening import is_gpu
from visionmesh.models.folder import PROGRAM_FILE, WEIGHTS_FILE
from visionmesh.models.record import StoredProgram
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Artifact, Choice, Precision, Variants

_WORTH = 1.1
"""How many times as fast an INT8 network must have been: less may be noise, but changes answers."""


class Stored(Made, Protocol):
    """A version's files, in the mesh or in a folder."""

    @property
    def program(self) -> StoredProgram | None:
        """``model.pt2``, if it has one."""


@dataclass(frozen=True)
class Copies:
    """Of one engine on one device."""

    engines: tuple[str, ...]
    """Those to try, in this order; one if it is known to work."""
    instance: Instance
    count: int

    @property
    def engine(self) -> str:
        """The first to try."""
        return self.engines[0]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run a version."""

    copies: tuple[Copies, ...]
    precision: Precision
    sha256: str
    """Of the file that is run, but for engines that run a program."""
    program: str | None
    """The SHA-256 of ``model.pt2``, if there is one."""
    plain: bool
    """It is `plain_way`, which needs nothing but ``model.onnx``."""
    why: str
    """Empty: it is the usual one."""
    tensorrt: Artifact | None = None
    """What the engine tensorrt runs in place of that."""

    @property
    def engine(self) -> str:
        """The engine's name; of several, all."""
        return ", ".join(sorted({copies.engine for copies in self.copies}))

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(sorted({copies.instance.device for copies in self.copies}))

    @property
    def units(self) -> tuple[Hashable, ...]:
        """What each engine computes with: the slots of a GPU share it, others have their cores."""
        return tuple(
            copies.instance.device if is_gpu(copies.instance.device) else (at, number)
            for at, copies in enumerate(self.copies)
            for number in range(copies.count)
        )

    def file_of(self, engine: str) -> str:
        """Return the SHA-256 of the file that an engine runs.

        Raises
        ------
        ConfigurationError
            (model_invalid) if the version does not have it.
        """
        if engine == TENSORRT and self.tensorrt is not None:
            return self.tensorrt.sha256
        if engine not in OF_PROGRAMS:
            return self.sha256
        if self.program is None:
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"The engine {engine} runs {PROGRAM_FILE}, and the version has none: import the "
                "network from PyTorch, or export it beside model.onnx.",
            )
        return self.program

    def precision_of(self, engine: str) -> Precision:
        """Return what an engine computes in."""
        own = self.tensorrt if engine == TENSORRT else None
        return own.precision if own is not None else self.precision

    @property
    def files(self) -> frozenset[str]:
        """Return the SHA-256 of all files that its engines may run."""
        engines = {name for copies in self.copies for name in copies.engines}
        missing = OF_PROGRAMS if self.program is None else frozenset()
        return frozenset(map(self.file_of, engines - missing))

    def running(self, copies: Sequence[Copies]) -> Way:
        """Return the way with what was opened of it, and what that computes in."""
        precision = self.precision_of(copies[0].engine)
        return replace(self, copies=tuple(copies), precision=precision)

    def although(self, *complaints: str) -> Way:
        """Return the way with what did not work told besides why it is taken."""
        told = (complaint.rstrip(".") for complaint in (self.why, *complaints) if complaint)
        return replace(self, why="; ".join(told))

    @property
    def because(self) -> str:
        """Why it is taken, for who asks also where nothing is unusual."""
        return self.why or "it was not tuned"


def plain_way(spec: ModelSpec, version: Stored, *, cores: int, why: str) -> Way:
    """Return the way that needs nothing but ``model.onnx``, on the engines that the model names.

    Where it names none it is the usual ones of the device.

    Raises
    ------
    ConfigurationError
        (model_invalid) if no engine serves one of the devices.
    """
    engines = [engines_of(spec, instance) for instance in spec.instances]
    return Way(
        copies=_copies(engines, spec.instances, cores),
        precision=Precision.FP32,
        sha256=version.sha256,
        program=_program(version),
        plain=True,
        why=why,
    )


def choose_way(spec: ModelSpec, version: Stored, *, features: tuple[str, ...], cores: int) -> Way:
    """Return the tuned way if it holds on a CPU with ``features``, else the plain one.

    Of a version that was never tuned it is the INT8 network, if that was right and clearly faster
    where it was made, and such a CPU multiplies bytes: others may saturate sums, and were not
    measured.

    Threads and copies are those of ``model.yaml`` if it says anything of instances. Otherwise they
    are the measured ones, with more copies on more ``cores`` and fewer on fewer.

    TensorRT computes in what its network says, so it has one of its own if the version has one that
    was found right: in INT8, or else in FP16, unless ``options`` say which.

    Raises
    ------
    ConfigurationError
        (model_invalid) if no engine serves one of the devices, or the version has no network of
        the precision that TensorRT is to compute in.
    """
    way = _chosen_way(spec, version, features=features, cores=cores)
    made = for_tensorrt(spec, version)
    if made is None:
        return way
    way = way.although(f"TensorRT has its {made.precision.upper()} network")
    return replace(way, tensorrt=made, plain=False)


def _chosen_way(spec: ModelSpec, version: Stored, *, features: tuple[str, ...], cores: int) -> Way:
    variants = version.variants
    choice = variants.choice if variants else None
    if variants is None or choice is None:
        return _untuned_way(spec, version, features=features, cores=cores)
    sha256 = _file(version, variants, choice)
    if sha256 is None:
        return plain_way(spec, version, cores=cores, why="another network was tuned")
    if not features or choice.cpu != features:
        return plain_way(spec, version, cores=cores, why="it was tuned on another kind of CPU")
    if not _on_cpus(spec):
        return plain_way(spec, version, cores=cores, why="model.yaml wants another device")
    if any(instance.engines for instance in spec.instances):
        return plain_way(spec, version, cores=cores, why="model.yaml names its engines")
    own = spec.instances == ModelSpec.model_fields["instances"].default
    instances = (_measured(choice, cores),) if own else spec.instances
    return Way(
        copies=_copies([(choice.engine,)] * len(instances), instances, cores),
        precision=choice.precision,
        sha256=sha256,
        program=_program(version),
        plain=False,
        why=f"{choice.images_per_s:.0f} images/s, against {choice.baseline_per_s:.0f} as it was",
    )


def _untuned_way(spec: ModelSpec, version: Stored, *, features: tuple[str, ...], cores: int) -> Way:
    way = plain_way(spec, version, cores=cores, why="")
    variants = version.variants
    made = variants.for_cpus() if variants and variants.of == version.sha256 else None
    if made is None or not _on_cpus(spec):
        return way
    if made.faster is None:
        return replace(
            way,
            why="the speed of its INT8 network was not measured: run `visionmesh optimize` again",
        )
    if not made.right:
        return replace(way, why="its INT8 network was not found right, and it was not tuned")
    if made.faster < _WORTH:
        return replace(
            way,
            why=f"its INT8 network was only {made.faster:.2f} times as fast, and it was not tuned",
        )
    if not multiplies_bytes(features):
        return replace(way, why="this CPU does not multiply the bytes of its INT8 network")
    why = f"its INT8 network was {made.faster:.2f} times as fast where it was made"
    return replace(way, precision=Precision.INT8, sha256=made.sha256, plain=False, why=why)


def _program(version: Stored) -> str | None:
    return version.program.sha256 if version.program else None


def _on_cpus(spec: ModelSpec) -> bool:
    return all(instance.device == "cpu" for instance in spec.instances)


def _file(version: Stored, variants: Variants, choice: Choice) -> str | None:
    """Return the hash of the file that was chosen, if the version has it."""
    if variants.of != version.sha256:
        return None
    artifacts = {artifact.file: artifact.sha256 for artifact in variants.artifacts}
    return {WEIGHTS_FILE: version.sha256, **artifacts}.get(choice.file)


def _measured(choice: Choice, cores: int) -> Instance:
    if choice.cores in (None, cores):
        return Instance(count=choice.count, threads=choice.threads)
    threads = min(choice.threads, cores)
    return Instance(count=max(1, cores // threads), threads=threads)


def _copies(
    engines: Sequence[tuple[str, ...]], instances: Sequence[Instance], cores: int
) -> tuple[Copies, ...]:
    return tuple(
        Copies(names, instance, _count(instance, cores))
        for names, instance in zip(engines, instances, strict=True)
    )


def _count(instance: Instance, cores: int) -> int:
    """Return how many engines an instance is: on a GPU one for each slot of its copies."""
    if is_gpu(instance.device):
        return (instance.count or 1) * instance.slots
    return instance.count or max(1, cores // instance.threads)
