"""One node builds for all alike; a plan is as it was stored, or it is built again."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from services.infer.plans import FolderPlans, MeshPlans
from visionmesh.embedded import NatsServer
from visionmesh.models.registry import Registry

NETWORK, OTHER = 64 * "a", 64 * "b"
KEY = f"{NETWORK}.h100"


def built(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "plan"
    file.write_text(text)
    return file


def test_a_plan_is_found_under_its_key(tmp_path: Path) -> None:
    plans = FolderPlans(tmp_path / "plans")
    assert plans.get(KEY) is None
    plans.put(KEY, built(tmp_path, "a plan"))
    found = plans.get(KEY)
    assert found is not None
    assert found.read_text() == "a plan"
    assert plans.get(f"{NETWORK}.l4") is None


@pytest.mark.parametrize("content", [b"", b"a plax"])
def test_a_plan_that_was_spoiled_is_not_used(tmp_path: Path, content: bytes) -> None:
    plans = FolderPlans(tmp_path / "plans")
    plans.put(KEY, built(tmp_path, "a plan"))
    (file,) = plans.folder.glob("*.plan")
    file.write_bytes(content)
    assert plans.get(KEY) is None
    assert not file.exists()


def test_the_least_recently_used_plans_give_way(tmp_path: Path) -> None:
    plans = FolderPlans(tmp_path / "plans", limit=25)
    for second, name in enumerate(("one", "two")):
        plans.put(f"{NETWORK}.{name}", built(tmp_path, f"{name} of ten"))
        (file,) = plans.folder.glob(f"*.{name}-*")
        os.utime(file, (second, second))
    assert plans.get(f"{NETWORK}.one"), "which makes it the latest"
    plans.put(f"{NETWORK}.new", built(tmp_path, "new of ten"))
    assert plans.get(f"{NETWORK}.one")
    assert plans.get(f"{NETWORK}.two") is None


def test_what_killed_processes_left_is_removed_in_time(tmp_path: Path) -> None:
    plans = FolderPlans(tmp_path / "plans")
    left, young = (plans.folder / name for name in ("building-1", "building-2"))
    for folder in (left, young):
        folder.mkdir(parents=True)
        (folder / "half").write_text("a plan")
    os.utime(left, (0, 0))
    plans.put(KEY, built(tmp_path, "a plan"))
    assert not left.exists()
    assert young.exists()


def test_plans_of_a_forgotten_network_are_deleted(tmp_path: Path) -> None:
    plans = FolderPlans(tmp_path / "plans")
    for network in (NETWORK, OTHER):
        plans.put(f"{network}.h100", built(tmp_path, network))
    plans.forget({NETWORK})
    assert plans.get(f"{NETWORK}.h100") is None
    assert plans.get(f"{OTHER}.h100")


def test_only_one_at_a_time_builds_the_same_until_the_store_is_closed(tmp_path: Path) -> None:
    one, other = (FolderPlans(tmp_path / "plans") for _ in range(2))
    in_turn = threading.Event()

    def wait() -> None:
        with other.alone(KEY):
            in_turn.set()

    for let_in in (None, other.close):
        with ThreadPoolExecutor(1) as threads:
            with one.alone(KEY), other.alone(f"{NETWORK}.l4"):
                waiting = threads.submit(wait)
                assert not in_turn.wait(0.2)
                if let_in is not None:
                    let_in()
                    waiting.result(timeout=20)
            waiting.result(timeout=20)
        in_turn.clear()
    one.forget({NETWORK})
    assert not list(one.folder.iterdir())


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(store=tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def clients(server: NatsServer) -> AsyncIterator[tuple[Client, Client]]:
    one, other = [
        await nats.connect(server.url, max_reconnect_attempts=-1, error_cb=_ignore)
        for _ in range(2)
    ]
    yield one, other
    await one.close()
    await other.close()


async def _ignore(error: Exception) -> None:
    """A server that a test stopped is not worth a line."""


@pytest.fixture
async def nodes(clients: tuple[Client, Client], tmp_path: Path) -> tuple[MeshPlans, MeshPlans]:
    """The plans of two nodes of one mesh."""
    loop = asyncio.get_running_loop()
    one, other = (
        MeshPlans(Registry(nc).plans, tmp_path / f"node{index}", loop=loop)
        for index, nc in enumerate(clients)
    )
    return one, other


async def test_what_one_node_built_another_one_has(
    nodes: tuple[MeshPlans, MeshPlans], tmp_path: Path
) -> None:
    one, other = nodes
    assert await asyncio.to_thread(other.get, KEY) is None

    await asyncio.to_thread(one.put, KEY, built(tmp_path, "a plan"))
    found = await asyncio.to_thread(other.get, KEY)

    assert found is not None
    assert found.read_text() == "a plan"
    assert found.parent == other.folder


async def test_two_nodes_that_built_at_once_keep_their_own_and_others_get_one(
    nodes: tuple[MeshPlans, MeshPlans], clients: tuple[Client, Client], tmp_path: Path
) -> None:
    files = [built(tmp_path / name, f"built by {name}") for name in ("one", "other")]
    await asyncio.gather(
        *(asyncio.to_thread(node.put, KEY, file) for node, file in zip(nodes, files, strict=True))
    )
    for node, file in zip(nodes, files, strict=True):
        found = await asyncio.to_thread(node.get, KEY)
        assert found is not None
        assert found.read_text() == file.read_text()
    third = MeshPlans(
        Registry(clients[0]).plans, tmp_path / "node3", loop=asyncio.get_running_loop()
    )
    found = await asyncio.to_thread(third.get, KEY)
    assert found is not None
    assert found.read_text() in {file.read_text() for file in files}


async def test_a_plan_of_no_use_is_replaced_for_all(
    nodes: tuple[MeshPlans, MeshPlans], clients: tuple[Client, Client], tmp_path: Path
) -> None:
    one, other = nodes
    await asyncio.to_thread(one.put, KEY, built(tmp_path, "of no use"))
    useless = await asyncio.to_thread(one.get, KEY)
    await asyncio.to_thread(one.put, KEY, built(tmp_path, "a plan"), instead_of=useless)
    for node in nodes:
        found = await asyncio.to_thread(node.get, KEY)
        assert found is not None
        assert found.read_text() == "a plan"
    # What has been replaced meanwhile stays.
    await asyncio.to_thread(other.put, KEY, built(tmp_path, "another"), instead_of=useless)
    third = MeshPlans(
        Registry(clients[0]).plans, tmp_path / "node3", loop=asyncio.get_running_loop()
    )
    found = await asyncio.to_thread(third.get, KEY)
    assert found is not None
    assert found.read_text() == "a plan"


async def test_a_spoiled_file_is_fetched_again(
    nodes: tuple[MeshPlans, MeshPlans], tmp_path: Path
) -> None:
    one, _ = nodes
    await asyncio.to_thread(one.put, KEY, built(tmp_path, "a plan"))
    (file,) = one.folder.glob("*.plan")
    file.write_text("spoiled")
    found = await asyncio.to_thread(one.get, KEY)
    assert found is not None
    assert found.read_text() == "a plan"


async def test_without_the_mesh_a_node_does_with_its_own(
    nodes: tuple[MeshPlans, MeshPlans], clients: tuple[Client, Client], tmp_path: Path
) -> None:
    one, other = nodes
    for client in clients:
        await client.close()
    await asyncio.to_thread(one.put, KEY, built(tmp_path, "a plan"))
    assert await asyncio.to_thread(one.get, KEY)
    assert await asyncio.to_thread(other.get, KEY) is None
    assert not list(other.folder.iterdir())
