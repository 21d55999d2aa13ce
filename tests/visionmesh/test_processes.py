"""A child is asked to end, then made to; what it prints arrives line by line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import timedelta

import psutil
import pytest

from visionmesh.processes import ChildProcess

SECONDS = timedelta(seconds=10)
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


class Lines:
    """Collects what processes print, and can be waited on."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self._more = asyncio.Event()

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        self._more.set()

    async def until(self, line: str) -> None:
        async with asyncio.timeout(SECONDS.total_seconds()):
            while all(line != seen for _, seen in self.lines):
                self._more.clear()
                await self._more.wait()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def shell(lines: Lines) -> Callable[[str], ChildProcess]:
    def start(script: str) -> ChildProcess:
        return ChildProcess(
            name="child", command=["/bin/sh", "-c", script], environment=os.environ, output=lines
        )

    return start


Shell = Callable[[str], ChildProcess]


async def test_every_line_arrives_also_one_without_an_end(shell: Shell, lines: Lines) -> None:
    child = shell("echo one; echo two >&2; printf three")
    await child.start()
    assert await child.wait() == 0
    assert lines.lines == [("child", "one"), ("child", "two"), ("child", "three")]
    assert child.last_output == "one\ntwo\nthree"


async def test_the_exit_status_is_told(shell: Shell) -> None:
    child = shell("exit 7")
    await child.start()
    assert await child.wait() == 7
    assert child.pid is None


async def test_stop_lets_the_child_finish_what_it_does(shell: Shell, lines: Lines) -> None:
    child = shell("trap 'echo finished; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    await child.start()
    await lines.until("ready")
    assert await child.stop(grace=SECONDS) == 3
    assert lines.lines[-1] == ("child", "finished")


@pytest.mark.parametrize("hurried", [False, True], ids=["after its grace", "in a hurry"])
async def test_a_child_that_does_not_end_is_killed(
    shell: Shell, lines: Lines, hurried: bool
) -> None:
    child = shell(STUBBORN)
    await child.start()
    await lines.until("ready")
    hurry = asyncio.Event()
    if hurried:
        hurry.set()
    grace = SECONDS * 100 if hurried else timedelta(milliseconds=50)
    assert await child.stop(grace=grace, hurry=hurry) == -9


async def test_a_stopped_child_can_be_started_again(shell: Shell, lines: Lines) -> None:
    child = shell("echo ready; exec sleep 60")
    for _ in range(2):
        lines.lines.clear()
        await child.start()
        await lines.until("ready")
        pid = child.pid
        assert pid is not None
        assert await child.stop(grace=SECONDS) == -15
        assert not psutil.pid_exists(pid)


async def test_a_child_is_in_a_session_of_its_own(shell: Shell) -> None:
    child = shell("exec sleep 60")
    await child.start()
    assert child.pid is not None
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    await child.stop(grace=SECONDS)
