"""A plan is shared by those for whom building it again would make the same, and by nobody else."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from services.infer.engines.tensorrt.key import PlanKey, plan_key
from services.infer.engines.tensorrt.options import BuildOptions
from visionmesh.gpu.gpu import DeviceInfo

NETWORK = 64 * "a"
INFO = DeviceInfo(
    kind="cuda",
    index=0,
    uuid="GPU-1",
    name="NVIDIA H100 80GB HBM3",
    memory_bytes=80 << 30,
    capability=(9, 0),
    driver="580.95.05",
)


def key(
    *, version: str = "10.16.1", package: str = "tensorrt", info: DeviceInfo = INFO, **more: Any
) -> PlanKey:
    trt = ModuleType(package)
    trt.__dict__["__version__"] = version
    rest: dict[str, Any] = {
        "network": NETWORK,
        "shape": (3, 8, 6),
        "sizes": (1, 2, 4),
        "options": BuildOptions(),
    }
    return plan_key(trt, info, **(rest | more))


def test_the_same_device_elsewhere_shares_a_plan() -> None:
    other = replace(INFO, index=3, uuid="GPU-2", memory_bytes=79 << 30)
    assert str(key()) == str(key(info=other))
    assert str(key()).startswith(f"{NETWORK}."), "it is forgotten with its network"


@pytest.mark.parametrize(
    "different",
    [
        {"network": 64 * "b"},
        {"version": "11.4.0"},
        {"package": "tensorrt_rtx"},
        {"sizes": (1, 2, 4, 8)},
        {"shape": (3, 8, 8)},
        {"options": BuildOptions(profiles="one")},
        {"options": BuildOptions(tf32=False)},
        {"info": replace(INFO, capability=(10, 0))},
        {"info": replace(INFO, driver="595.1")},
        {"info": replace(INFO, name="NVIDIA H100 80GB HBM3 MIG 1g.10gb")},
    ],
    ids=str,
)
def test_what_matters_makes_another_plan(different: dict[str, Any]) -> None:
    assert str(key()) != str(key(**different))


def test_timings_hold_for_every_network_on_the_same_device() -> None:
    same = key(network=64 * "b", sizes=(1,), options=BuildOptions(level=5))
    assert key().timings == same.timings
    assert key().timings != key(version="11.4.0").timings
    assert key().timings != key(info=replace(INFO, name="NVIDIA L4")).timings
