"""The builder is a process of its own: however it ends, that is told, and nothing of it is left."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from services.infer.engines.tensorrt import building
from services.infer.engines.tensorrt.building import build_plan
from services.infer.plans import FolderPlans
from tests.services.infer.engines.tensorrt.conftest import MakeJob
from visionmesh.errors import Code, ConfigurationError, Retry
from visionmesh.gpu.gpu import GpuMemoryError

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def pretender(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "tests.services.infer.engines.tensorrt.pretender"
    monkeypatch.setattr(building, "_MODULE", module)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def test_a_plan_is_built_and_is_told_how_far_it_is(
    job_of: MakeJob, weights: Path, plans: FolderPlans, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=building.__name__)
    weights.write_text("builds")
    job = job_of(weights)

    heard: list[str] = []

    build_plan(job, model="trees", timeout=HOUR, plans=plans, told=heard.append)

    assert job.plan.read_text() == "a plan for (1, 2, 4)"
    assert heard == [
        "TensorRT builds its plan",
        *(f"TensorRT builds its plan: {tenth}% (Timing tactics)" for tenth in (10, 20, 30, 40)),
    ]
    assert caplog.messages == [
        "model trees: TensorRT builds it for batches of 1, 2, 4",
        *(f"model trees: {tenth} % built (Timing tactics)" for tenth in (10, 20, 30, 40)),
        "model trees: built by TensorRT in 2 s, 3 MiB",
    ]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("fails", r"cannot build model 'trees': node 'conv_7' \(Conv\): no such thing\."),
        ("SIGSEGV", r"the builder crashed \(SIGSEGV\)"),
        ("SIGKILL", r"the builder was killed"),
        ("SIGTERM", r"the builder was told to end"),
        ("raises", r"ended with status 1 after 'RuntimeError: a bug'"),
    ],
)
def test_a_build_that_fails_tells_why(
    job_of: MakeJob, weights: Path, plans: FolderPlans, what: str, told: str
) -> None:
    weights.write_text(what)
    with pytest.raises(ConfigurationError, match=told) as error:
        build_plan(job_of(weights), model="trees", timeout=HOUR, plans=plans)
    assert error.value.code == Code.MODEL_INVALID


def test_a_plan_is_there_though_the_builder_crashes_afterwards(
    job_of: MakeJob, weights: Path, plans: FolderPlans
) -> None:
    weights.write_text("builds and crashes")
    job = job_of(weights)
    build_plan(job, model="trees", timeout=HOUR, plans=plans)
    assert job.plan.exists()


def test_too_little_memory_of_the_device_is_told_apart(
    job_of: MakeJob, weights: Path, plans: FolderPlans
) -> None:
    weights.write_text("lacks memory")
    with pytest.raises(GpuMemoryError, match="9 GiB"):
        build_plan(job_of(weights), model="trees", timeout=HOUR, plans=plans)


def test_a_build_that_takes_too_long_is_ended(
    job_of: MakeJob, weights: Path, plans: FolderPlans
) -> None:
    weights.write_text("waits")
    with pytest.raises(ConfigurationError, match="took longer than 0:00:01"):
        build_plan(job_of(weights), model="trees", timeout=timedelta(seconds=1), plans=plans)


def test_a_worker_that_ends_does_not_wait_for_its_builds(
    job_of: MakeJob, weights: Path, plans: FolderPlans
) -> None:
    weights.write_text("waits")
    job = job_of(weights)
    with ThreadPoolExecutor(1) as threads:
        building = threads.submit(build_plan, job, model="trees", timeout=HOUR, plans=plans)
        arrived = threading.Event()
        for _ in range(400):
            if job.plan.with_name("waits").exists() or arrived.wait(0.05):
                break
        builder = psutil.Process(int(job.plan.with_name("pid").read_text()))

        plans.close()

        with pytest.raises(Retry, match="the worker ends"):
            building.result(timeout=20)
    assert not builder.is_running()
    with pytest.raises(Retry, match="the worker ends"):
        build_plan(job, model="trees", timeout=HOUR, plans=plans)
