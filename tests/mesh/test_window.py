"""How many images of a model are in flight at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import psutil

from tests.mesh.conftest import picture
from tests.mesh.slow import push_slow
from tests.polling import until
from visionmesh import subjects
from visionmesh.bus.api import request
from visionmesh.client import Mesh
from visionmesh.contracts import Status
from visionmesh.local import LocalMesh

NAME = "narrow"
WINDOW, IMAGES = 4, 40


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    process = psutil.Process(pid)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


async def test_no_more_images_are_in_flight_than_the_window_holds(
    local_mesh: LocalMesh, mesh: Mesh, tmp_path: Path
) -> None:
    await push_slow(local_mesh, tmp_path, name=NAME, window=WINDOW)
    assert (await mesh.infer(NAME, picture())).status is Status.OK
    client = await nats.connect(local_mesh.nats_url)
    in_flight: list[int] = []

    async def looked() -> dict[str, Any]:
        told = await request(client, f"CONSUMER.INFO.{subjects.EVENTS}.ingest_{NAME}")
        in_flight.append(told["num_ack_pending"])
        return told

    async def full() -> bool:
        return bool((await looked())["num_ack_pending"] >= WINDOW)

    async def all_ended() -> bool:
        told = await looked()
        return bool(told["num_pending"] + told["num_ack_pending"] == 0)

    [infer] = local_mesh.pids["infer"]
    with suspended(infer):  # what is in flight stays so
        ids = [await mesh.publish(NAME, picture(), source="window") for _ in range(IMAGES)]
        await until(full)
    await until(all_ended, within=30)
    await client.close()
    assert max(in_flight) == WINDOW
    for id in ids:
        result = await mesh.result(NAME, "window", id)
        assert result is not None
        assert result.status is Status.OK
