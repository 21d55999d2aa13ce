"""Other processes that a test talks to line by line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Peer:
    """A second process that answers a line with a line."""

    def __init__(self, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Peers:
    """Starts processes of ``script``."""

    def __init__(self, script: str) -> None:
        self._script = script
        self._started: list[Peer] = []

    def __call__(self, *arguments: str) -> Peer:
        peer = Peer(self._script, *arguments)
        self._started.append(peer)
        return peer

    def kill(self) -> None:
        for peer in self._started:
            peer.kill()


@contextmanager
def peers(script: str) -> Iterator[Peers]:
    """Kill what was started, in the end."""
    started = Peers(script)
    try:
        yield started
    finally:
        started.kill()
