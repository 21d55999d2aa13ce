"""What a worker process opens before its work, and what it tidies up."""

from __future__ import annotations

import fcntl
import mmap
from datetime import timedelta
from pathlib import Path

import pytest

from tests.polling import until
from visionmesh.context import open_context, shm_prefix
from visionmesh.settings import Settings
from visionmesh.tensors import ShmArena
from visionmesh.tensors.slab import create_slab


@pytest.fixture
def settings(nats_url: str, tmp_path: Path) -> Settings:
    return Settings(nats_url=nats_url, state_dir=tmp_path, shm_dir=tmp_path)


async def test_a_worker_removes_the_slabs_that_killed_ones_of_its_stage_left(
    settings: Settings,
) -> None:
    prefix = settings.shm_dir / f"{shm_prefix(settings)}infer"
    left, kept = Path(f"{prefix}-killed"), Path(f"{prefix}-alive")
    for path in (left, kept):
        slab = create_slab(path, slots=1, slot_bytes=mmap.PAGESIZE)
        if path is left:
            fcntl.flock(
                slab.descriptor, fcntl.LOCK_UN
            )  # as the kernel does when the process is gone
    async with open_context(settings, stage="infer", stream="TENSORS") as context:
        slabs = {path.name for path in settings.shm_dir.glob(f"{prefix.name}-*")}
        assert slabs == {kept.name, context.arena.name}


async def test_what_a_worker_has_left_that_ended_is_mapped_no_more_once_others_are_heard_of(
    settings: Settings,
) -> None:
    def mapped() -> bool:
        return name in Path("/proc/self/maps").read_text()

    async def let_go() -> bool:
        return not mapped()

    name = "ended-worker"
    async with open_context(settings, stage="infer", stream="TENSORS") as context:
        with ShmArena(
            directory=settings.shm_dir, name=name, size=1 << 20, lease=timedelta(hours=1)
        ) as arena:
            slot = arena.reserve(1)
            assert slot is not None
            context.reader.read(slot.commit(), memoryview(b"")).release()
        assert mapped()
        await context.nodes.start(load=lambda: 0.0)
        await until(let_go)
