"""`visionmesh up` ends in order, and leaves nothing behind however it ends."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis.asyncio

from tests.visionmesh.cli.conftest import COMMAND, environment, finish
from visionmesh.embedded import NatsServer, ValkeyServer
from visionmesh.state import MeshRecord, StateFolder

PATIENCE = timedelta(seconds=60)
ANY_PORTS = ("--port", "0", "--grpc-port", "0", "--nats-port", "0")
ORDER = ["ingest", "preprocess", "infer", "postprocess", "valkey", "nats"]


class Up:
    """A `visionmesh up` that is ready, and what it printed."""

    def __init__(self, process: asyncio.subprocess.Process, state: Path) -> None:
        self.process = process
        self.state = state
        self.lines: list[str] = []

    async def until(self, words: str) -> None:
        """Read its output up to a line with ``words``."""
        assert self.process.stdout is not None
        while not self.lines or words not in self.lines[-1]:
            line = await self.process.stdout.readline()
            assert line, "\n".join(self.lines)
            self.lines.append(line.decode())

    async def end(self) -> int:
        """Read the rest; return the exit status."""
        assert self.process.stdout is not None
        self.lines += (await self.process.stdout.read()).decode().splitlines()
        return await self.process.wait()

    @property
    def record(self) -> MeshRecord:
        record = StateFolder(self.state).living()
        assert record is not None
        return record


@asynccontextmanager
async def up(state: Path, *arguments: str) -> AsyncIterator[Up]:
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *("up", *ANY_PORTS, *arguments),
        env=environment(state),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            running = Up(process, state)
            await running.until("mesh │ up: ")
            yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await finish(state, "down")


async def assert_nothing_is_left(record: MeshRecord) -> None:
    left = [found for process in record.processes if (found := process.find())]
    _, alive = await asyncio.to_thread(psutil.wait_procs, left, timeout=10)
    assert not alive
    assert not list(record.shm_dir.glob(f"{record.shm_prefix}*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
async def test_a_signal_drains_the_services_in_the_order_of_the_images(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with up(tmp_path) as mesh:
        record = mesh.record
        assert {process.name for process in record.processes} == set(ORDER)
        mesh.process.send_signal(number)
        assert await mesh.end() == 0
        ended = [line.split()[2] for line in mesh.lines if line.endswith("ended (status 0)")]
        assert ended == ORDER
        await assert_nothing_is_left(record)
        assert StateFolder(tmp_path).read() is None


async def test_a_second_ctrl_c_hurries(tmp_path: Path) -> None:
    async with up(tmp_path) as mesh:
        record = mesh.record
        # A service that stands still cannot end, and would be waited for.
        stuck = next(found.find() for found in record.processes if found.name == "ingest")
        assert stuck is not None
        stuck.suspend()
        mesh.process.send_signal(signal.SIGINT)
        await mesh.until("ending")
        began = time.monotonic()
        mesh.process.send_signal(signal.SIGINT)
        assert await mesh.end() == 0
        assert time.monotonic() - began < 15, "it waited for its grace of 20 s"
        assert any("ingest ended (signal 9)" in line for line in mesh.lines)
        await assert_nothing_is_left(record)


async def test_a_killed_supervisor_takes_everything_with_it(tmp_path: Path) -> None:
    async with up(tmp_path) as mesh:
        record = mesh.record
        mesh.process.kill()
        await mesh.process.wait()
        down = await finish(tmp_path, "down")
        assert down.out == f"The mesh in {tmp_path} has ended.\n"
        await assert_nothing_is_left(record)


async def test_a_mesh_starts_over_what_a_killed_one_left(tmp_path: Path) -> None:
    async with up(tmp_path) as first:
        first.process.kill()
        await first.process.wait()
        left = StateFolder(tmp_path).read()
        assert left is not None
        async with up(tmp_path) as second:
            assert second.record.supervisor.pid == second.process.pid
            assert not [process for process in left.processes if process.find()]


async def test_one_state_folder_holds_one_mesh(tmp_path: Path) -> None:
    async with up(tmp_path) as mesh:
        other = await finish(tmp_path, "up", *ANY_PORTS)
        assert other.status == 2
        assert "A mesh already runs" in other.err
        assert (await finish(tmp_path, "down")).status == 0
        assert await mesh.end() == 0


async def test_replicas_and_given_servers(tmp_path: Path) -> None:
    settings = tmp_path / "mesh.yaml"
    settings.write_text("preprocess: {replicas: 2}\npostprocess: {replicas: 0}\n")
    async with (
        NatsServer(store=tmp_path / "nats") as nats,
        ValkeyServer(directory=tmp_path / "valkey", max_memory_bytes=0) as valkey,
        up(
            tmp_path / "state",
            *("-f", str(settings), "--nats", nats.url, "--redis", valkey.url),
        ) as mesh,
    ):
        record = mesh.record
        assert [process.name for process in record.processes] == [
            "ingest",
            "preprocess-1",
            "preprocess-2",
            "infer",
        ]
        assert (record.nats_url, record.redis_url) == (nats.url, valkey.url)
        mesh.process.terminate()
        assert await mesh.end() == 0
        assert sum("redis_url: " in line for line in mesh.lines) == 1
        client = redis.asyncio.from_url(valkey.url)
        assert await client.ping()
        await client.aclose()


async def test_it_says_where_each_protocol_is(tmp_path: Path) -> None:
    async with up(tmp_path, "--mqtt-port", "0") as mesh:
        said = re.search(
            r"NATS nats://127.0.0.1:(\d+), HTTP http://127.0.0.1:(\d+), "
            r"gRPC 127.0.0.1:(\d+), MQTT mqtt://127.0.0.1:(\d+), ",
            mesh.lines[-1],
        )
        assert said is not None, mesh.lines[-1]
        for port in said.groups():
            _, writer = await asyncio.open_connection("127.0.0.1", int(port))
            writer.close()
        mesh.process.terminate()
        assert await mesh.end() == 0


async def test_every_worker_says_where_it_listens(tmp_path: Path) -> None:
    settings = tmp_path / "mesh.yaml"
    settings.write_text("ingest: {replicas: 2}\n")
    async with up(tmp_path / "state", "-f", str(settings)):
        listed = await finish(tmp_path / "state", "ps", "--json")
        found = [node for node in listed.documents if node["stage"] == "ingest"]
        places = {node["grpc"] for node in found} | {
            urlsplit(node["http"]).netloc for node in found
        }
        assert len(places) == 4
        for place in places:
            host, _, port = place.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
        table = (await finish(tmp_path / "state", "ps")).out
        assert all(place in table for place in places)


async def test_serve_is_one_service_with_the_settings_of_the_file(tmp_path: Path) -> None:
    settings = tmp_path / "mesh.yaml"
    async with NatsServer(store=tmp_path / "nats") as nats:
        settings.write_text(f"nats_url: {nats.url}\nnode: edge7\n")
        process = await asyncio.create_subprocess_exec(
            COMMAND,
            *("serve", "preprocess", "-f", str(settings)),
            env=environment(tmp_path),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while b"is ready" not in await process.stderr.readline():
                assert process.returncode is None
            listed = await finish(tmp_path, "ps", "--json", "--nats", nats.url)
            [node] = listed.documents
            assert (node["stage"], node["node"], node["pid"]) == (
                "preprocess",
                "edge7",
                process.pid,
            )
            process.terminate()
            assert await process.wait() == 0
