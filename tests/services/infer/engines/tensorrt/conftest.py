"""Models, stores and jobs for the tests of this engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.infer.engines import tensorrt as adapter
from services.infer.engines.tensorrt.job import Job
from services.infer.engines.tensorrt.options import BuildOptions
from services.infer.plans import FolderPlans
from tests.services.infer.engines.samples import spec_of
from visionmesh.models.spec import ModelSpec

MakeJob = Callable[..., Job]
SHAPE = (3, 8, 6)


@pytest.fixture
def spec() -> ModelSpec:
    return spec_of()


@pytest.fixture
def plans(tmp_path: Path) -> FolderPlans:
    return FolderPlans(tmp_path / "plans")


@pytest.fixture
def job_of(tmp_path: Path) -> MakeJob:
    """Return a job for `tests.networks.save_network`, and what else is to be different."""

    def make(weights: Path, **different: Any) -> Job:
        options = BuildOptions(runtime="tensorrt_rtx", **different.pop("options", {}))
        told: dict[str, Any] = {
            "weights": weights,
            "plan": tmp_path / "built.plan",
            "timings": None,
            "device": "cuda",
            "capability": (8, 6),
            "shape": SHAPE,
            "sizes": (1, 2, 4),
            "options": options,
        }
        return Job(**told | different)

    return make


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs of the builder, which is in place of a process with TensorRT."""
    jobs: list[Job] = []

    def build(job: Job, **_: Any) -> None:
        jobs.append(job)
        profiles = [[size, size] for size in job.sizes]
        job.plan.write_text(json.dumps({"profiles": profiles, "shape": job.shape}))

    monkeypatch.setattr(adapter, "build_plan", build)
    return jobs
