"""Which of a version's networks TensorRT runs: it computes in the types that are in the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from services.infer.engines import TENSORRT, engines_of
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.spec import ModelSpec
from visionmesh.models.variants import Artifact, Precision, Variants

_SCHEMES: Mapping[str, str] = {Precision.INT8: "s8s8", Precision.FP16: "fp16"}
"""By precision, the fastest first. Of INT8 TensorRT takes the symmetric scheme only."""
_AUTO = "auto"


class Made(Protocol):
    """A version's files."""

    @property
    def sha256(self) -> str:
        """Of ``model.onnx``."""

    @property
    def variants(self) -> Variants | None:
        """What was made of it."""


def for_tensorrt(spec: ModelSpec, version: Made) -> Artifact | None:
    """Return what TensorRT runs in place of ``model.onnx``; `None`: that, or it runs nothing.

    Raises
    ------
    ConfigurationError
        (model_invalid) if the version has no network of the precision that ``options`` name, or
        they name several.
    """
    where = f"{spec.name}/model.yaml: instances: options.precision"
    wanted = {
        str(instance.options.get("precision", _AUTO))
        for instance in spec.instances
        if TENSORRT in engines_of(spec, instance)
    }
    if not wanted:
        return None
    if len(wanted) > 1:
        names = ", ".join(sorted(wanted))
        raise ConfigurationError(
            Code.MODEL_INVALID, f"{where}: {names}: all instances compute in one precision."
        )
    (name,) = wanted
    variants = version.variants
    made = variants.artifacts if variants and variants.of == version.sha256 else ()
    by_scheme: dict[str, Artifact] = {artifact.scheme: artifact for artifact in made}
    if name == _AUTO:
        there = (by_scheme.get(scheme) for scheme in _SCHEMES.values())
        return next((one for one in there if one is not None and one.right), None)
    scheme = _SCHEMES.get(name)
    if scheme is None:
        return None
    if scheme not in by_scheme:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"{where}: the version has no {name} network; run: visionmesh optimize {spec.name} "
            f"--precision {name}.",
        )
    return by_scheme[scheme]
