"""What was made of a version's network: other precisions, and the fastest way to run it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from visionmesh.contracts import Frozen
from visionmesh.errors import Code, ConfigurationError
from visionmesh.faults import first_fault
from visionmesh.models.spec import MOST_CORES

VARIANTS_FILE = "variants.json"
"""Beside ``model.onnx``, in the folder of a version."""


class Precision(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"
    """Computed by the engine from the FP32 network; no file of its own."""
    FP16 = "fp16"
    INT8 = "int8"


class Artifact(Frozen):
    """One more file of a version."""

    file: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*\.onnx$")]
    """Its name in the version's folder."""
    precision: Precision
    scheme: Literal["u8s8", "s8s8", "fp16"]
    """Of INT8: activations and weights. ``u8s8`` is for CPUs, ``s8s8`` (symmetric) for TensorRT."""
    sha256: str
    size_bytes: int
    faster: float | None = None
    """How many times as fast as the FP32 network, one image with one thread of ONNX Runtime, where
    it was made; `None` if that is not known."""
    right: bool = False
    """It was found to answer as the FP32 network does; false of what was promoted by force."""


class Measured(Frozen):
    """One way to run a version, as it is measured; a worker makes its own `Way` of it."""

    engine: Literal["onnxruntime", "openvino"]
    precision: Precision
    file: str
    """`model.onnx`, or that of an `Artifact`."""
    threads: Annotated[int, Field(ge=1, le=MOST_CORES)]
    count: Annotated[int, Field(ge=1, le=MOST_CORES)]
    """Copies of the engine, which together keep all cores busy."""

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}, {self.count} x {self.threads} threads"


class Choice(Measured):
    """What was fastest on a machine, of all that was right."""

    cpu: tuple[str, ...]
    """Features of the CPU it was measured on (``avx512_vnni``, ``amx_bf16``, …): others differ."""
    cores: Annotated[int, Field(ge=1)] | None = None
    """That the machine had; where there are more or fewer, so are the copies."""
    images_per_s: float
    baseline_per_s: float
    """Of ONNX Runtime with the FP32 network in the same run."""


class Variants(Frozen):
    """The content of ``variants.json``."""

    of: str
    """SHA-256 of the ``model.onnx`` that all was made from; with another network nothing holds."""
    artifacts: tuple[Artifact, ...] = ()
    choice: Choice | None = None

    def for_cpus(self) -> Artifact | None:
        """Return the INT8 network in the form that CPUs compute fast, if there is one."""
        return next((one for one in self.artifacts if one.scheme == "u8s8"), None)


def read_variants(version: Path) -> Variants | None:
    """Return what lies in the folder of a version, if anything does.

    Raises
    ------
    ConfigurationError
        (model_invalid) if the file cannot be read, or names a file that is not there.
    """
    file = version / VARIANTS_FILE
    if not file.is_file():
        return None
    try:
        variants = Variants.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise _invalid(file, str(first_fault(error))) from error
    for artifact in variants.artifacts:
        if not (version / artifact.file).is_file():
            raise _invalid(file, f"there is no {artifact.file} beside it")
    return variants


def write_variants(version: Path, variants: Variants) -> None:
    """Write ``variants`` into the folder of a version."""
    text = variants.model_dump_json(indent=2) + "\n"
    (version / VARIANTS_FILE).write_text(text, encoding="utf-8")


def _invalid(file: Path, what: str) -> ConfigurationError:
    shown = Path(*file.parts[-3:])
    return ConfigurationError(
        Code.MODEL_INVALID, f"{shown}: {what}; run `visionmesh optimize` again, or delete it."
    )
