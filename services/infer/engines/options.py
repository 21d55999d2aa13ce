"""What ``options`` of an instance may say to its engine."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Self

from pydantic import ValidationError

from visionmesh.contracts import Frozen
from visionmesh.errors import Code, ConfigurationError
from visionmesh.faults import first_fault
from visionmesh.models.spec import Instance, ModelSpec

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "onnxruntime": "provider enable_cuda_graph use_tf32 prefer_nhwc gpu_mem_limit"
        " trt_fp16_enable",
        "tensorrt": "runtime profiles workspace tf32 level precision graphs timeout",
        "torch": "compile mode graphs autocast tensor_parallel plan timeout load_timeout",
    }
)
"""What each engine knows: one whose packages are not installed cannot be asked."""


class EngineOptions(Frozen):
    """Those of one engine, each with its default."""

    engine: ClassVar[str]

    @classmethod
    def of(cls, spec: ModelSpec, instance: Instance) -> Self:
        """Return an instance's, without those of the other engines that it names.

        Raises `ConfigurationError` (model_invalid) that names what is wrong.
        """
        others = {known for name in instance.engines for known in NAMES.get(name, "").split()}
        foreign = others - cls.model_fields.keys()
        own = {name: said for name, said in instance.options.items() if name not in foreign}
        try:
            return cls.model_validate(own)
        except ValidationError as error:
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"{spec.name}/model.yaml: instances: options.{first_fault(error)}; the "
                f"engine {cls.engine} knows: {', '.join(cls.model_fields)}.",
            ) from error
