"""Real servers that a test may stop and start again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import nats
from nats.errors import Error as NatsError

START_TIMEOUT = 20.0


class NatsServer:
    """A NATS server with JetStream on a free port, whose state lies in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start the server, on its former port if it had one; wait until it accepts clients."""
        config, log = self._folder / "nats.conf", self._folder / "log"
        config.write_text(
            f'listen: "127.0.0.1:{self._port}"\nports_file_dir: "{self._folder}"\n'
            f'max_payload: 33554432\njetstream {{ store_dir: "{self._folder}/js" }}\n'
        )
        process = self._process = await asyncio.to_thread(_launch, config, log)
        deadline = time.monotonic() + START_TIMEOUT
        while not await self._accepts():
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"nats-server does not answer:\n{log.read_text()}")
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Ask the server to end, and wait until it has."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, START_TIMEOUT)
            self._process = None

    async def _accepts(self) -> bool:
        try:
            self._port = self._written_port()
            client = await nats.connect(self.url, allow_reconnect=False, connect_timeout=1)
        except (FileNotFoundError, ValueError, OSError, NatsError):
            return False
        await client.close()
        return True

    def _written_port(self) -> int:
        assert self._process is not None
        ports = json.loads((self._folder / f"nats-server_{self._process.pid}.ports").read_text())
        return int(ports["nats"][0].rpartition(":")[2])


def _launch(config: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [Path(sys.executable).parent / "nats-server", "-c", config],
            stdout=output,
            stderr=output,
        )
