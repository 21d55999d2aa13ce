"""What runs a network: one small protocol, and a table of implementations by device."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.spec import Instance, ModelSpec

Image = NDArray[np.uint8]
"""``(height, width, channels) uint8`` in the colour order of the model's input."""

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
        self, weights: Path, spec: ModelSpec, instance: Instance, *, count: int
    ) -> tuple[Engine, ...]:
        """Return ``count`` engines; raise `ConfigurationError` if the network cannot be loaded."""


ENGINES: Mapping[str, str] = MappingProxyType({"cpu": "services.infer.engines.onnxruntime"})
"""The module that serves a device, by the part of the device's name before the colon."""


def open_engines(
    weights: Path, spec: ModelSpec, instance: Instance, *, count: int
) -> tuple[Engine, ...]:
    """Load ``weights`` and return ``count`` engines on the instance's device.

    Raises
    ------
    ConfigurationError
        (model_invalid) if no engine serves the device, or the network cannot be loaded.
    """
    kind = instance.device.partition(":")[0]
    if kind not in ENGINES:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"{spec.name}/model.yaml: instances: no engine serves the device {instance.device!r}; "
            f"use one of: {', '.join(ENGINES)}.",
        )
    # An engine's packages are needed only where its device is.
    opener = cast(Opener, importlib.import_module(ENGINES[kind]).open_engines)
    return opener(weights, spec, instance, count=count)
