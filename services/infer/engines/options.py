"""What ``options`` of an instance may say to its engine."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import ValidationError

from visionmesh.contracts import Frozen
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.spec import Instance, ModelSpec


class EngineOptions(Frozen):
    """Those of one engine, each with its default."""

    engine: ClassVar[str]

    @classmethod
    def of(cls, spec: ModelSpec, instance: Instance) -> Self:
        """Return an instance's; raise `ConfigurationError` (model_invalid) that names the wrong."""
        try:
            return cls.model_validate(instance.options)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"{spec.name}/model.yaml: instances: options.{key}: {first['msg']}; the engine "
                f"{cls.engine} knows: {', '.join(cls.model_fields)}.",
            ) from error
