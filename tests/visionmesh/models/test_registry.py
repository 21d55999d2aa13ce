from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from tests.networks import save_folder
from tests.visionmesh.models.conftest import stored
from visionmesh.embedded import NatsServer
from visionmesh.errors import Code, Refused
from visionmesh.models.artifacts import ArtifactStore, file_sha256
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Change, Registry
from visionmesh.models.traffic import Sticky
from visionmesh.subjects import MODELS_BUCKET


async def next_of(changes: AsyncIterator[Change | None]) -> Change | None:
    async with asyncio.timeout(20):
        return await anext(changes)


async def test_a_pushed_model_is_found_and_its_weights_are_fetched(
    registry: Registry, tmp_path: Path
) -> None:
    folder = load_folder(save_folder(tmp_path / "trees", versions=(1, 2)))

    pushed = await registry.push(folder)

    assert await registry.get("trees") == pushed
    assert await registry.list() == (pushed,)
    assert pushed.versions[2].outputs[0].shape == (4,)
    for number, file in folder.versions.items():
        fetched = await registry.fetch(pushed.versions[number].sha256, directory=tmp_path / "c")
        assert fetched.read_bytes() == file.read_bytes()


async def test_removing_frees_only_what_no_other_model_uses(
    registry: Registry, nc: Client, tmp_path: Path
) -> None:
    await registry.push(load_folder(save_folder(tmp_path / "oaks", versions=(1, 2))))
    kept = await registry.push(load_folder(save_folder(tmp_path / "pines", versions=(1,))))

    await registry.remove("oaks")

    assert await registry.list() == (kept,)
    assert (await stored(nc))[0] == 1
    await registry.fetch(kept.versions[1].sha256, directory=tmp_path / "cache")
    await registry.remove("pines")
    assert (await stored(nc))[0] == 0
    again = await registry.push(load_folder(tmp_path / "oaks"))
    assert await registry.get("oaks") == again


async def test_files_of_a_push_that_never_ended_are_freed_in_time(
    registry: Registry, nc: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.push(load_folder(save_folder(tmp_path / "oaks")))
    left = tmp_path / "left.onnx"
    left.write_bytes(b"all of a network, and no record of it")
    await ArtifactStore(nc).put(file_sha256(left), left)

    await registry.push(load_folder(save_folder(tmp_path / "pines", versions=(2,))))
    assert (await stored(nc))[0] == 3, "its push may still go on"
    monkeypatch.setattr("visionmesh.models.registry._CLAIMED_WITHIN", timedelta(0))
    await registry.remove("pines")

    assert (await stored(nc))[0] == 1
    await registry.fetch((await registry.get("oaks")).versions[1].sha256, directory=tmp_path)


async def test_a_change_between_reading_and_writing_is_not_lost(
    registry: Registry, server: NatsServer, tmp_path: Path
) -> None:
    path = save_folder(tmp_path / "trees", versions=(1, 2, 3))
    await registry.push(load_folder(path))
    clients = [await nats.connect(server.url) for _ in range(2)]

    await asyncio.gather(
        Registry(clients[0]).change("trees", lambda record: record.steered(weights={1: 1})),
        Registry(clients[1]).change("trees", lambda record: record.steered(sticky="source")),
    )

    traffic = (await registry.get("trees")).traffic
    assert (traffic.weights, traffic.sticky) == ({1: 1}, Sticky.SOURCE)
    for client in clients:
        await client.close()


async def test_what_is_not_there_is_refused(registry: Registry, tmp_path: Path) -> None:
    for call in (registry.get("trees"), registry.remove("trees")):
        with pytest.raises(Refused) as raised:
            await call
        assert raised.value.code is Code.UNKNOWN_MODEL
    with pytest.raises(Refused) as raised:
        await registry.get("../trees")
    assert raised.value.code is Code.INVALID_NAME
    for sha256 in ("0" * 64, "../../etc/passwd"):
        with pytest.raises(Refused) as raised:
            await registry.fetch(sha256, directory=tmp_path)
        assert raised.value.code is Code.UNKNOWN_VERSION
    with pytest.raises(Refused) as raised:
        await registry.push(load_folder(save_folder(tmp_path / "trees")), version=7)
    assert raised.value.code is Code.UNKNOWN_VERSION


async def test_a_watcher_sees_what_is_there_then_every_change_also_after_a_restart(
    registry: Registry, server: NatsServer, tmp_path: Path
) -> None:
    oaks = load_folder(save_folder(tmp_path / "oaks"))
    pines = load_folder(save_folder(tmp_path / "pines"))
    pushed = await registry.push(oaks)
    changes = aiter(registry.watch())

    assert pushed.revision > 0
    assert await next_of(changes) == Change(name="oaks", record=pushed, revision=pushed.revision)
    assert await next_of(changes) is None

    pushed = await registry.push(pines)
    assert await next_of(changes) == Change(name="pines", record=pushed, revision=pushed.revision)

    pending = asyncio.ensure_future(next_of(changes))
    await server.stop()
    await server.start()
    other = await nats.connect(server.url)
    await Registry(other).remove("oaks")
    revision = pushed.revision + 1
    assert await pending == Change(name="oaks", record=None, revision=revision)
    await other.close()


async def test_a_watcher_of_an_empty_mesh_is_told_so(registry: Registry) -> None:
    assert await next_of(aiter(registry.watch())) is None


async def test_a_broken_file_in_the_cache_is_fetched_again(
    registry: Registry, tmp_path: Path
) -> None:
    record = await registry.push(load_folder(save_folder(tmp_path / "trees")))
    cache = tmp_path / "cache"
    sha256 = record.versions[1].sha256
    file = await registry.fetch(sha256, directory=cache)
    file.write_bytes(file.read_bytes()[:-1])

    file = await registry.fetch(sha256, directory=cache)

    assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256
    assert list(cache.iterdir()) == [file]


async def test_a_connection_that_is_gone_is_named(registry: Registry, nc: Client) -> None:
    await registry.list()
    await nc.close()
    with pytest.raises(Refused) as raised:
        await registry.list()
    assert raised.value.code is Code.MESH_UNREACHABLE


async def test_a_record_under_another_name_shares_the_files(
    registry: Registry, tmp_path: Path
) -> None:
    trees = await registry.push(load_folder(save_folder(tmp_path / "trees", versions=(1,))))
    twin = trees.model_copy(
        update={"spec": trees.spec.model_copy(update={"name": "twin"}), "parked": True}
    )

    stored = await registry.put(twin)
    assert stored == twin.model_copy(update={"revision": trees.revision + 1})
    assert await registry.get("twin") == stored
    await registry.remove("trees")
    await registry.fetch(twin.versions[1].sha256, directory=tmp_path / "c")

    await registry.push(load_folder(save_folder(tmp_path / "twin", versions=(1,))))
    assert not (await registry.get("twin")).parked, "what is pushed is to be loaded"


async def test_the_record_of_another_release_is_told_and_its_files_are_kept(
    registry: Registry, nc: Client, tmp_path: Path
) -> None:
    pushed = await registry.push(load_folder(save_folder(tmp_path / "later", versions=(1,))))
    bucket = await nc.jetstream().key_value(MODELS_BUCKET)
    await bucket.put("later", b'{"from": "a later release"}')
    await registry.push(load_folder(save_folder(tmp_path / "ours", versions=(1, 2))))

    with pytest.raises(Refused, match="another release") as refused:
        await registry.get("later")
    assert refused.value.code is Code.MODEL_INVALID
    assert [record.spec.name for record in await registry.list()] == ["ours"]
    await registry.remove("ours")
    assert await registry.list() == ()
    await registry.fetch(pushed.versions[1].sha256, directory=tmp_path / "cache")
    await registry.remove("later")
    with pytest.raises(Refused, match="There is no model"):
        await registry.get("later")
