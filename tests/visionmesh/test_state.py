"""The state folder belongs to one mesh at a time, and remembers what a killed one left."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from visionmesh.errors import ConfigurationError
from visionmesh.state import MeshRecord, RunningProcess, StateFolder, end_leftovers, end_mesh

SECONDS = timedelta(seconds=10)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["/bin/sleep", "60"])
    yield process
    process.kill()
    process.wait()


def running(process: subprocess.Popen[bytes]) -> RunningProcess:
    found = RunningProcess.of("sleeper", process.pid)
    assert found is not None
    return found


def record(folder: Path, supervisor: RunningProcess, *processes: RunningProcess) -> MeshRecord:
    return MeshRecord(
        supervisor=supervisor,
        processes=processes,
        nats_url="nats://127.0.0.1:1",
        shm_dir=folder,
        shm_prefix="visionmesh-test-",
    )


def test_only_one_holds_the_folder(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "new")
    with (
        folder.hold(),
        pytest.raises(ConfigurationError, match="visionmesh down"),
        folder.hold(),
    ):
        pytest.fail("two held it")
    with folder.hold():
        assert folder.path.is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match=r"file/state"),
        StateFolder(tmp_path / "file" / "state").hold(),
    ):
        pytest.fail("it was held")


def test_the_record_lives_as_long_as_its_supervisor(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    folder = StateFolder(tmp_path)
    assert folder.read() is None
    folder.write(record(tmp_path, running(sleeper)))
    assert folder.living() == folder.read() is not None
    sleeper.kill()
    sleeper.wait()
    assert folder.living() is None
    assert folder.read() is not None


def test_a_later_process_with_the_same_number_is_spared(
    sleeper: subprocess.Popen[bytes],
) -> None:
    other = running(sleeper).model_copy(update={"started": 1.0})
    assert other.find() is None
    assert end_leftovers([other]) == []
    assert sleeper.poll() is None


def test_down_ends_the_supervisor_and_what_it_left_and_removes_orphaned_slabs(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "visionmesh-test-slab").touch()
    (tmp_path / "visionmesh-other-slab").touch()
    with psutil.Popen(["/bin/sleep", "60"]) as left:
        folder = StateFolder(tmp_path)
        folder.write(record(tmp_path, running(sleeper), running(left)))
        assert end_mesh(folder, patience=SECONDS)
        assert not psutil.pid_exists(sleeper.pid)
        assert not psutil.pid_exists(left.pid)
    assert folder.read() is None
    assert not (tmp_path / "visionmesh-test-slab").exists()
    assert (tmp_path / "visionmesh-other-slab").exists()
    assert not end_mesh(folder, patience=SECONDS)
