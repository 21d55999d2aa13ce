"""How many images of a model are in flight at once."""

from __future__ import annotations

from pathlib import Path

import nats

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


async def test_no_more_images_are_in_flight_than_the_window_holds(
    local_mesh: LocalMesh, mesh: Mesh, tmp_path: Path
) -> None:
    await push_slow(local_mesh, tmp_path, name=NAME, window=WINDOW)
    assert (await mesh.infer(NAME, picture())).status is Status.OK
    ids = [await mesh.publish(NAME, picture(), source="window") for _ in range(IMAGES)]
    client = await nats.connect(local_mesh.nats_url)
    in_flight: list[int] = []

    async def all_ended() -> bool:
        told = await request(client, f"CONSUMER.INFO.{subjects.EVENTS}.ingest_{NAME}")
        if told["num_pending"]:  # at the end fewer are left than there is room for
            in_flight.append(told["num_ack_pending"])
        return bool(told["num_pending"] + told["num_ack_pending"] == 0)

    await until(all_ended, within=30)
    await client.close()
    assert max(in_flight) == WINDOW
    for id in ids:
        result = await mesh.result(NAME, "window", id)
        assert result is not None
        assert result.status is Status.OK
