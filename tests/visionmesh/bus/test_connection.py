"""Which servers a mesh can be on."""

from __future__ import annotations

import asyncio

import pytest

from visionmesh.bus import Connection
from visionmesh.errors import Code, ConfigurationError


async def greet(version: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a NATS server of that version, as far as a client looks at it before it asks anything."""
    writer.write(b'INFO {"version": "%s", "headers": true, "max_payload": 1024}\r\n' % version)
    async for line in reader:
        if line == b"PING\r\n":
            writer.write(b"PONG\r\n")
    writer.close()


@pytest.mark.parametrize("version", [b"2.11.9", b"1.99.0"])
async def test_a_server_that_is_too_old_is_refused(version: bytes) -> None:
    # There is no real one at hand: the packages carry the newest.
    server = await asyncio.start_server(lambda *streams: greet(version, *streams), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConfigurationError, match=r"needs 2\.12 or newer") as caught:
        await Connection.open(f"nats://127.0.0.1:{port}", name="test")
    assert caught.value.code is Code.MESH_INCOMPATIBLE
    server.close()
    await server.wait_closed()
