"""What a mesh takes: memory at the start and after many images, and killed services.

    python -m bench.endurance

Memory is the sum over all processes of the mesh, its servers included:
resident (pages that several share count in each) and proportional (shared pages count once).
Then every service is killed in turn while events flow; each event must have exactly one result.
Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import uvloop

from bench.load import Driver, distinct, fresh_mesh, photos
from bench.models import small_folder, yolox_folder
from visionmesh.contracts import Status
from visionmesh.local import SERVICES, LocalMesh

IN_FLIGHT = 64


def memory(running: LocalMesh, kind: str) -> dict[str, float]:
    """Return the megabytes of each service and server, ``rss`` or ``pss``."""
    return {
        name: sum(getattr(psutil.Process(pid).memory_full_info(), kind) for pid in pids) / 1e6
        for name, pids in running.pids.items()
    }


async def resident(folder: Path) -> tuple[float, float]:
    """Return resident and proportional megabytes with one model after a few hundred images."""
    async with fresh_mesh(folder) as (running, mesh):
        driver = Driver(mesh=mesh, model=folder.name)
        await driver.run(distinct(photos()), in_flight=IN_FLIGHT, count=500)
        return sum(memory(running, "rss").values()), sum(memory(running, "pss").values())


async def growth(folder: Path, *, few: int, many: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the proportional megabytes of each process after ``few`` and ``many`` images."""
    images = distinct(photos())
    async with fresh_mesh(folder) as (running, mesh):
        driver = Driver(mesh=mesh, model=folder.name)
        await driver.run(images, in_flight=IN_FLIGHT, count=few)
        before = memory(running, "pss")
        await driver.run(images, in_flight=IN_FLIGHT, count=many - few)
        after = memory(running, "pss")
    return before, after


async def killed(folder: Path, *, count: int) -> Counter[str]:
    """Kill each service once while ``count`` events flow; return the results of each event."""
    images = distinct(photos())
    seen: Counter[str] = Counter()
    complete = asyncio.Event()
    async with fresh_mesh(folder) as (running, mesh):

        async def listen() -> None:
            async for result in mesh.results(folder.name):
                assert result.status is Status.OK, result
                seen[result.id] += 1
                if len(seen) == count:
                    complete.set()

        listening = asyncio.create_task(listen())
        turns = {count * (n + 1) // 5: name for n, name in enumerate(SERVICES)}
        window = asyncio.Semaphore(IN_FLIGHT)

        async def publish(number: int) -> None:
            async with window:
                await mesh.publish(folder.name, next(images), id=f"event-{number}")
                if name := turns.get(number):
                    os.kill(running.pids[name][0], signal.SIGKILL)

        await asyncio.gather(*(publish(number) for number in range(count)))
        async with asyncio.timeout(180):
            await complete.wait()
        await asyncio.sleep(2)  # a second result would come now
        listening.cancel()
        assert all(running.restarts[name] == 1 for name in SERVICES), running.restarts
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        yolox, small = yolox_folder(Path(root)), small_folder(Path(root))
        rss, pss = uvloop.run(resident(yolox))
        seen = uvloop.run(killed(small, count=arguments.events))
        before, after = uvloop.run(growth(small, few=2000, many=arguments.many))
    found = {
        "resident_mb": round(rss),
        "proportional_mb": round(pss),
        "events": arguments.events,
        "answered": len(seen),
        "answered_twice": sum(times > 1 for times in seen.values()),
        "mb_after_2000": round(sum(before.values()), 1),
        f"mb_after_{arguments.many}": round(sum(after.values()), 1),
        "growth": round(sum(after.values()) / sum(before.values()) - 1, 4),
        "growth_by_process_mb": {name: round(after[name] - before[name], 1) for name in after},
    }
    for name, value in found.items():
        print(f"{name:<22}{value!s:>10}")
    print(json.dumps({"benchmark": "endurance", "cpus": os.cpu_count(), **found}))


if __name__ == "__main__":
    main()
