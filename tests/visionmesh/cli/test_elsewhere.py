"""Commands where there is no mesh: each says so in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import PlainNatsServer
from tests.visionmesh.cli.conftest import finish
from visionmesh.embedded import NatsServer

COMMANDS = (
    ("ps",),
    ("list",),
    ("show", "nobody"),
    ("rm", "nobody"),
    ("watch", "nobody"),
    ("dead", "list"),
    ("dead", "show", "1"),
    ("dead", "replay", "1"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_without_a_server(tmp_path: Path, command: tuple[str, ...]) -> None:
    finished = await finish(tmp_path, *command, "--nats", "nats://127.0.0.1:1")
    assert finished.status == 1
    assert finished.err.endswith("[mesh_unreachable]\n")
    assert finished.err.count("\n") == 1


async def test_a_server_without_jetstream(tmp_path: Path) -> None:
    server = PlainNatsServer(store=tmp_path / "nats")
    await server.start()
    try:
        for command in COMMANDS:
            finished = await finish(tmp_path, *command, "--nats", server.url)
            assert finished.status == 2, command
            assert "without JetStream" in finished.err
            assert finished.err.count("\n") == 1
    finally:
        await server.stop()


async def test_a_server_that_no_mesh_has_used(tmp_path: Path) -> None:
    server = NatsServer(store=tmp_path / "nats")
    await server.start()
    try:
        assert (await finish(tmp_path, "ps", "--nats", server.url)).out == "No worker is there.\n"
        assert (await finish(tmp_path, "list", "--nats", server.url)).out == "No model is pushed.\n"
        finished = await finish(tmp_path, "dead", "list", "--nats", server.url)
        assert (finished.status, finished.err.count("\n")) == (2, 1)
        assert "No mesh has used this NATS server" in finished.err
    finally:
        await server.stop()
