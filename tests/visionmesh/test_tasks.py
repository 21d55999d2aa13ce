from __future__ import annotations

import asyncio

from visionmesh.tasks import end


async def test_tasks_that_wait_are_cancelled() -> None:
    tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(3)]
    await asyncio.wait_for(end(tasks), 5)
    assert all(task.cancelled() for task in tasks)


async def test_a_task_that_lost_its_cancellation_is_told_again() -> None:
    told = 0

    async def deaf() -> None:
        nonlocal told
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told += 1
                if told == 3:
                    raise

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await asyncio.wait_for(end([task]), 5)
    assert (told, task.cancelled()) == (3, True)


async def test_tasks_that_had_ended_well_or_not_are_left_as_they_are() -> None:
    async def fail() -> None:
        raise ValueError("on purpose")

    failed, done = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(0, "done"))
    await asyncio.wait((failed, done))
    await end([failed, done])
    await end([])
    assert (str(failed.exception()), done.result()) == ("on purpose", "done")
