"""Processes are kept running, with pauses that grow, and read the settings they were given."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from visionmesh.processes import ChildProcess
from visionmesh.settings import (
    EventsSettings,
    InferSettings,
    IngestSettings,
    Settings,
    TracingSettings,
)
from visionmesh.settings.ingest import TlsSettings, UrlSettings
from visionmesh.supervisor import Keeper, LogFiles, child_environment

SECONDS = timedelta(seconds=10)


class Watched:
    """A kept shell script, and what its keeper tells."""

    def __init__(self, script: str, *, starts_that_fail: int = 0) -> None:
        self._starts_that_fail = starts_that_fail
        self.told: list[str] = []
        self.starts = 0
        self._more = asyncio.Event()
        self.keeper = Keeper(
            process=ChildProcess(
                name="child", command=["/bin/sh", "-c", script], environment=os.environ
            ),
            report=self._tell,
            changed=self._started,
        )

    def _tell(self, text: str) -> None:
        self.told.append(text)

    def _started(self) -> None:
        self.starts += 1
        self._more.set()
        if self.starts <= self._starts_that_fail:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS.total_seconds()):
            while not condition():
                self._more.clear()
                await self._more.wait()

    async def until_started_again(self) -> None:
        before = self.starts
        await self.until(lambda: self.starts > before)

    async def stop(self) -> None:
        await self.keeper.stop(grace=SECONDS, hurry=asyncio.Event())


async def test_a_killed_process_is_started_again() -> None:
    watched = Watched("exec sleep 60")
    await watched.keeper.start()
    first = watched.keeper.pid
    assert first is not None
    os.kill(first, 9)
    await watched.until(lambda: watched.starts == 1)
    assert watched.keeper.pid not in (None, first)
    assert watched.keeper.restarts == 1
    assert "child ended unasked (signal 9)" in watched.told[0]
    await watched.stop()


async def test_the_pauses_before_a_restart_grow() -> None:
    watched = Watched("exit 4")
    await watched.keeper.start()
    await watched.until(lambda: watched.keeper.restarts == 2)
    await watched.stop()
    assert "(status 4); starting it again in 0.25 s" in watched.told[0]
    assert "(status 4); starting it again in 0.5 s" in watched.told[1]


async def test_a_full_disk_does_not_keep_a_process_from_being_kept() -> None:
    watched = Watched("exec sleep 60", starts_that_fail=1)
    await watched.keeper.start()
    for _ in range(2):
        assert watched.keeper.pid is not None
        os.kill(watched.keeper.pid, 9)
        await watched.until_started_again()
    assert "child: [Errno 28] No space left on device" in watched.told
    await watched.stop()
    assert watched.keeper.pid is None


async def test_a_stopped_process_stays_stopped() -> None:
    watched = Watched("exec sleep 60")
    await watched.keeper.start()
    await watched.stop()
    assert watched.keeper.pid is None
    assert watched.keeper.restarts == 0
    assert watched.told == ["child ended (signal 15)"]


_PRINT_SETTINGS = """
from visionmesh.settings import load_settings
print(load_settings().model_dump_json())
"""


@pytest.mark.parametrize("by_tls", [True, False])
def test_a_child_reads_exactly_the_settings_it_was_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by_tls: bool
) -> None:
    given = Settings(
        redis_url="redis://127.0.0.1:1",
        state_dir=tmp_path / "ä b",
        events=EventsSettings(ack_wait=timedelta(milliseconds=1500)),
        tracing=TracingSettings(sample=0.25),
        infer=InferSettings(replicas=3, nice=4),
        ingest=IngestSettings(
            grpc_port=None,
            urls=UrlSettings(hosts=("example.org", "*.example.net")),
            tls=TlsSettings(certificate=tmp_path / "c", key=tmp_path / "k") if by_tls else None,
        ),
    )
    monkeypatch.setenv("VISIONMESH_INFER__REPLICAS", "9")
    read = subprocess.run(
        [sys.executable, "-c", _PRINT_SETTINGS],
        env=child_environment(given),
        capture_output=True,
        check=True,
    )
    assert read.stdout.decode().strip() == given.model_dump_json()


@pytest.mark.parametrize(("own", "told"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST",) * 2])
def test_gpus_count_as_the_driver_counts_unless_they_are_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, own: str | None, told: str
) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    if own is not None:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", own)
    assert child_environment(Settings())["CUDA_DEVICE_ORDER"] == told


def test_logs_go_to_one_file_per_process_and_stay_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visionmesh.supervisor._LOG_BYTES", 1000)
    files = LogFiles(tmp_path)
    for number in range(1000):
        files("infer", f"line {number}")
    files("ingest", "one line")
    files.close()
    assert (tmp_path / "ingest.log").read_text() == "one line\n"
    assert (tmp_path / "infer.log").read_text().endswith("line 999\n")
    assert sum(path.stat().st_size for path in tmp_path.glob("infer.log*")) <= 2000
