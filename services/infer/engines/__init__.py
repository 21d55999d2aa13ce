"""What runs a network: one small protocol, and a table of implementations."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Precision

Image = NDArray[Any]
"""``(height, width, channels) uint8`` in the colour order of the model's input; or one entry of
the network's batch as it is, in its own layout and dtype."""

Outputs = dict[str, NDArray[Any]]
"""Arrays by the output's name; the first dimension is the batch."""


class Engine(Protocol):
    """One copy of a network on one device; used by one thread at a time."""

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that the network runs with, in ascending order."""

    def run(self, images: Sequence[Image]) -> Outputs:
        """Return what the network says of up to ``batch_sizes[-1]`` images; block meanwhile.

        The arrays belong to the caller. Images are read during the call only.

        Raises
        ------
        Reject
            (model_failed) if the network cannot work on one of these images.
        Fatal
            If it cannot work at all any more.
        """

    def warm(self) -> None:
        """Run every batch size once, so that no image pays for first-time work."""

    def close(self) -> None:
        """Free what the engine holds; it is not used again."""


class Opener(Protocol):
    """What an engine's module offers under the name ``open_engines``."""

    def __call__(
        self,
        weights: Path,
        spec: ModelSpec,
        instance: Instance,
        *,
        count: int,
        precision: Precision,
    ) -> tuple[Engine, ...]:
        """Return ``count`` engines; raise `ConfigurationError` if the network cannot be loaded."""


ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "onnxruntime": "services.infer.engines.onnxruntime",
        "openvino": "services.infer.engines.openvino",
    }
)
"""The module of each engine."""

DEVICES: Mapping[str, tuple[str, ...]] = MappingProxyType({"cpu": ("onnxruntime", "openvino")})
"""The engines that serve a device, the usual one first, by what its name has before the colon."""


def usual_engine(spec: ModelSpec, instance: Instance) -> str:
    """Return the engine of the instance's device; raise `ConfigurationError` if there is none."""
    kind = instance.device.partition(":")[0]
    if kind not in DEVICES:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"{spec.name}/model.yaml: instances: no engine serves the device {instance.device!r}; "
            f"use one of: {', '.join(DEVICES)}.",
        )
    return DEVICES[kind][0]


def open_engines(
    weights: Path,
    spec: ModelSpec,
    instance: Instance,
    *,
    count: int,
    engine: str | None = None,
    precision: Precision = Precision.FP32,
) -> tuple[Engine, ...]:
    """Load ``weights`` and return ``count`` engines on the instance's device.

    Without ``engine`` it is the device's usual one. ``precision`` says what is computed in; what
    the weights are in is seen in the file.

    Raises
    ------
    ConfigurationError
        (model_invalid) if no engine serves the device, the engine is not installed, or the network
        cannot be loaded.
    """
    name = engine or usual_engine(spec, instance)
    # An engine's packages are needed only where it is used.
    try:
        module = importlib.import_module(ENGINES[name])
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"Model {spec.name!r} wants the engine {name}, which is not installed here; "
            f"run: pip install {name}.",
        ) from error
    opener = cast(Opener, module.open_engines)
    return opener(weights, spec, instance, count=count, precision=precision)
