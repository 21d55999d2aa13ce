"""Real servers for all tests, started once and stopped at the end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.errors import Error as NatsError

START_TIMEOUT = 20.0


@pytest.fixture(scope="session")
async def nats_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a NATS server with JetStream that all tests share."""
    folder = tmp_path_factory.mktemp("nats")
    config = folder / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{folder}"\nmax_payload: 33554432\n'
        f'jetstream {{ store_dir: "{folder}/js" }}\n'
    )
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(  # noqa: ASYNC220 - forking is quick, and waiting is not done here
            [Path(sys.executable).parent / "nats-server", "-c", config], stdout=log, stderr=log
        )
    try:
        yield await _connectable(server, folder)
    finally:
        server.terminate()
        await asyncio.to_thread(server.wait, 10)


async def _connectable(server: subprocess.Popen[bytes], folder: Path) -> str:
    """Return the server's URL as soon as it accepts a connection."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            url = _written_url(folder)
            connection = await nats.connect(url, allow_reconnect=False, connect_timeout=1)
        except (LookupError, ValueError, OSError, NatsError):
            await asyncio.sleep(0.02)
            continue
        await connection.close()
        return url
    raise RuntimeError(f"nats-server does not answer:\n{(folder / 'log').read_text()}")


def _written_url(folder: Path) -> str:
    """Return the URL that the server wrote down; raise `LookupError` if it has not done so yet."""
    ports = list(folder.glob("*.ports"))
    return str(json.loads(ports[0].read_text())["nats"][0])
