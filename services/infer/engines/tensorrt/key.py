"""What a plan depends on: two nodes that agree in all of it share one."""

from __future__ import annotations

import hashlib
from typing import Any

from services.infer.engines.tensorrt.options import BuildOptions
from visionmesh.contracts import Frozen
from visionmesh.gpu.gpu import DeviceInfo

_EDITION = 1
"""Of our builder: greater when it makes other plans of the same."""


class PlanKey(Frozen):
    """All that makes another plan."""

    network: str
    """The SHA-256 of the ONNX file."""
    runtime: str
    """The package and its release: plans are read by the very same only."""
    capability: tuple[int, int]
    device: str
    """The name, which tells slices of a GPU apart, too: kernels are chosen by what was fastest."""
    driver: str
    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    options: BuildOptions
    edition: int = _EDITION

    def __str__(self) -> str:
        """Return it as a key of `Plans`."""
        rest = self.model_dump_json(exclude={"network"})
        return f"{self.network}.{hashlib.sha256(rest.encode()).hexdigest()[:40]}"

    @property
    def timings(self) -> str:
        """The name of what was measured of kernels: it holds for any network."""
        facts = f"{self.runtime} {self.capability} {self.device} {self.driver}"
        return hashlib.sha256(facts.encode()).hexdigest()[:40]


def plan_key(
    trt: Any,
    info: DeviceInfo,
    *,
    network: str,
    shape: tuple[int, ...],
    sizes: tuple[int, ...],
    options: BuildOptions,
) -> PlanKey:
    """Return the key of a network's plan on a device, with the runtime that is installed here."""
    return PlanKey(
        network=network,
        runtime=f"{trt.__name__} {trt.__version__}",
        capability=info.capability,
        device=info.name,
        driver=info.driver,
        shape=shape,
        sizes=sizes,
        options=options,
    )
