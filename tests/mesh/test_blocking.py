"""Scripts without an event loop of their own; each runs in a thread beside the mesh's."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice

import pytest

from tests.mesh.conftest import CLASSIFIER, picture
from visionmesh import BlockingMesh, Code, Refused, Status
from visionmesh.local import LocalMesh

THREAD = "visionmesh client"


@pytest.fixture(autouse=True)
def _leaves_nothing(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No thread, and no word of asyncio on tasks that were forgotten."""
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        yield
    assert THREAD not in [thread.name for thread in threading.enumerate()]
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def run(script: Callable[[BlockingMesh], None], local_mesh: LocalMesh) -> None:
    def whole() -> None:
        with BlockingMesh(local_mesh.nats_url) as mesh:
            script(mesh)

    async with asyncio.timeout(30):
        await asyncio.to_thread(whole)


async def test_publishes_infers_and_looks_up(local_mesh: LocalMesh) -> None:
    def script(mesh: BlockingMesh) -> None:
        result = mesh.infer(CLASSIFIER, picture(), source="script")
        assert result.status is Status.OK
        assert mesh.result(CLASSIFIER, "script", result.id) == result
        assert {node.stage for node in mesh.nodes()} >= {"ingest", "infer"}
        with pytest.raises(Refused) as caught:
            mesh.publish("nobody", picture())
        assert caught.value.code is Code.UNKNOWN_MODEL

    await run(script, local_mesh)


async def test_reads_results_in_a_plain_loop(local_mesh: LocalMesh) -> None:
    def script(mesh: BlockingMesh) -> None:
        began = datetime.now(UTC)
        ids = [mesh.publish(CLASSIFIER, picture(), source="loop") for _ in range(3)]
        found = islice(mesh.results(CLASSIFIER, source="loop", since=began), 3)
        assert {result.id for result in found} == set(ids)

    await run(script, local_mesh)


async def test_an_abandoned_loop_disturbs_nothing(local_mesh: LocalMesh) -> None:
    def script(mesh: BlockingMesh) -> None:
        began = datetime.now(UTC)
        ids = {mesh.publish(CLASSIFIER, picture(), source="abandoned") for _ in range(3)}
        for result in mesh.results(CLASSIFIER, source="abandoned", since=began):
            assert result.id in ids
            break
        kept = mesh.results(CLASSIFIER, source="abandoned", since=began)
        assert next(kept).id in ids
        assert mesh.infer(CLASSIFIER, picture()).status is Status.OK
        # Here the mesh is closed while ``kept`` is in the middle of its results.

    await run(script, local_mesh)


async def test_closing_ends_the_loops_of_other_threads(local_mesh: LocalMesh) -> None:
    began = datetime.now(UTC)
    first = threading.Event()
    listening: list[Future[None]] = []

    def listen(mesh: BlockingMesh) -> None:
        for _ in mesh.results(CLASSIFIER, source="listened", since=began):
            first.set()

    def script(mesh: BlockingMesh) -> None:
        listening.append(pool.submit(listen, mesh))
        mesh.publish(CLASSIFIER, picture(), source="listened")
        assert first.wait(10)

    with ThreadPoolExecutor(1) as pool:
        await run(script, local_mesh)
        error = await asyncio.to_thread(listening[0].exception, 10)
    assert isinstance(error, CancelledError)


LISTEN = """
import signal, sys
from visionmesh import BlockingMesh
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run behind a &
with BlockingMesh(sys.argv[1]) as mesh:
    print("listens", flush=True)
    for _ in mesh.results(source="nobody"):
        pass
"""


async def test_ctrl_c_ends_a_script_that_waits(local_mesh: LocalMesh) -> None:
    script = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-c", LISTEN, local_mesh.nats_url, stdout=PIPE, stderr=PIPE
    )
    assert script.stdout is not None
    assert await script.stdout.readline() == b"listens\n"
    script.send_signal(signal.SIGINT)
    async with asyncio.timeout(10):
        _, told = await script.communicate()
    assert told.decode().splitlines()[-1] == "KeyboardInterrupt"
    assert b"never awaited" not in told
    assert b"already running" not in told
