"""The access layer: REST against events, gRPC against the runtime, and a crowd at the door.

    python -m bench.front

*REST ÷ events* takes turns of YOLOX-nano with 32 images in flight either way. *gRPC* sends
eight clients' ready tensors of the small network, and compares with threads that call ONNX
Runtime on the same tensors: once as fast as both can (closed loop), once at less than half of that
(paced), where queues say nothing. The *crowd* is 200 clients at 64 places: who is answered asks
again at once, who is refused when it was told to. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import onnxruntime
import tritonclient.grpc.aio as triton
import uvloop
from numpy.typing import NDArray

from bench.load import Driver, distinct, fresh_mesh, photos
from bench.models import small_folder, yolox_folder
from visionmesh.models.folder import load_folder

IN_FLIGHT = 32
GRPC_CLIENTS = 8
CROWD = 200
PLACES = 64
PACED = 0.4
"""Share of the closed loop's rate."""
LATE = 60.0
"""Seconds after which a client of the crowd counts as not answered."""

Times = list[float]
Call = Callable[[], Awaitable[None]]


async def closed_loop(calls: Sequence[Call], *, seconds: float) -> tuple[Times, float]:
    """Let each caller call again and again; return milliseconds, and calls per second."""
    took: Times = []
    end = time.perf_counter() + seconds

    async def repeat(call: Call) -> None:
        while time.perf_counter() < end:
            began = time.perf_counter()
            await call()
            took.append((time.perf_counter() - began) * 1e3)

    began = time.perf_counter()
    await asyncio.gather(*map(repeat, calls))
    return took, len(took) / (time.perf_counter() - began)


async def paced(calls: Sequence[Call], *, rate: float, seconds: float) -> Times:
    """Let the callers begin ``rate`` calls per second in turn; return milliseconds."""
    took: Times = []

    async def one(call: Call) -> None:
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1e3)

    running = []
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        running.append(asyncio.create_task(one(calls[number % len(calls)])))
    await asyncio.gather(*running)
    return took


async def rest_against_events(
    folder: Path, images: Iterator[bytes], *, rounds: int, seconds: float
) -> list[tuple[float, float]]:
    """Return images per second by REST and as events, in turns."""
    found = []
    async with fresh_mesh(folder) as (running, mesh), aiohttp.ClientSession() as http:
        url = f"{running.http_url}/v1/models/{folder.name}/infer"

        async def ask() -> None:
            async with http.post(url, data=next(images)) as answer:
                await answer.read()
                assert answer.status == 200, await answer.text()

        driver = Driver(mesh=mesh, model=folder.name)
        await driver.run(images, in_flight=IN_FLIGHT, seconds=4)
        await closed_loop([ask] * IN_FLIGHT, seconds=2)
        for _ in range(rounds):
            load = await driver.run(images, in_flight=IN_FLIGHT, seconds=seconds)
            _, rest = await closed_loop([ask] * IN_FLIGHT, seconds=seconds)
            found.append((rest, load.rate))
    return found


async def grpc_against_runtime(folder: Path, *, seconds: float) -> dict[str, float]:
    """Return median milliseconds of both sides, closed loop and paced."""
    model = load_folder(folder)
    (weights,) = model.versions.values()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    spec = model.spec.input
    tensor = np.random.default_rng(0).random((1, 3, spec.height, spec.width), np.float32)
    async with fresh_mesh(folder) as (running, _):
        assert running.grpc_url is not None
        clients = [triton.InferenceServerClient(running.grpc_url) for _ in range(GRPC_CLIENTS)]
        calls = [_asking(client, folder.name, name, tensor) for client in clients]
        with ThreadPoolExecutor(GRPC_CLIENTS) as threads:
            loop = asyncio.get_running_loop()

            async def direct() -> None:
                await loop.run_in_executor(threads, session.run, None, {name: tensor})

            sides: tuple[Sequence[Call], ...] = (calls, [direct] * GRPC_CLIENTS)
            for side in sides:
                await closed_loop(side, seconds=2)
            closed, rate = await closed_loop(calls, seconds=seconds)
            closed_direct, _ = await closed_loop([direct] * GRPC_CLIENTS, seconds=seconds)
            slow = await paced(calls, rate=PACED * rate, seconds=seconds)
            slow_direct = await paced([direct] * GRPC_CLIENTS, rate=PACED * rate, seconds=seconds)
        for client in clients:
            await client.close()
    return {
        "grpc_tensor_mb": tensor.nbytes / 1e6,
        "grpc_closed_ms": statistics.median(closed),
        "grpc_closed_direct_ms": statistics.median(closed_direct),
        "grpc_paced_ms": statistics.median(slow),
        "grpc_paced_direct_ms": statistics.median(slow_direct),
    }


def _asking(client: Any, model: str, name: str, tensor: NDArray[np.float32]) -> Call:
    wanted = triton.InferInput(name, list(tensor.shape), "FP32")
    wanted.set_data_from_numpy(tensor)

    async def ask() -> None:
        await client.infer(model, [wanted])

    return ask


async def crowd(folder: Path, images: Iterator[bytes], *, seconds: float) -> dict[str, float]:
    """Return what became of the requests of more clients than there are places."""
    ended: Counter[str] = Counter()
    took: Times = []
    async with fresh_mesh(folder, max_requests=PLACES) as (running, _):
        url = f"{running.http_url}/v1/models/{folder.name}/infer"
        connector = aiohttp.TCPConnector(limit=CROWD)
        timeout = aiohttp.ClientTimeout(LATE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:

            async def ask() -> None:
                began = time.perf_counter()
                try:
                    async with http.post(url, data=next(images)) as answer:
                        await answer.read()
                except (TimeoutError, aiohttp.ClientError) as error:
                    ended[type(error).__name__] += 1
                    return
                ended[str(answer.status)] += 1
                if answer.status == 200:
                    took.append((time.perf_counter() - began) * 1e3)
                else:
                    await asyncio.sleep(float(answer.headers.get("Retry-After", 0)))

            await closed_loop([ask] * 8, seconds=3)
            ended.clear()
            took.clear()
            began = time.perf_counter()
            await closed_loop([ask] * CROWD, seconds=seconds)
            rate = ended["200"] / (time.perf_counter() - began)
    refused = ended["503"] + ended["429"]
    p99 = float(np.quantile(took, 0.99))
    return {
        "crowd_requests": float(ended.total()),
        "crowd_answered": float(ended["200"]),
        "crowd_refused": float(refused),
        "crowd_answered_or_refused": (ended["200"] + refused) / ended.total(),
        "crowd_answered_per_s": rate,
        "crowd_answered_p99_ms": p99,
        "crowd_p99_by_bound": p99 / (PLACES / rate * 1e3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--crowd", type=float, default=60.0, help="seconds")
    arguments = parser.parse_args()
    images = distinct(photos())
    seconds = arguments.seconds
    with tempfile.TemporaryDirectory() as root:
        yolox, small = yolox_folder(Path(root)), small_folder(Path(root))
        rates = uvloop.run(
            rest_against_events(yolox, images, rounds=arguments.rounds, seconds=seconds)
        )
        found = {"rest_by_events": statistics.median(rest / events for rest, events in rates)}
        found |= uvloop.run(grpc_against_runtime(small, seconds=seconds))
        found |= uvloop.run(crowd(yolox, images, seconds=arguments.crowd))
    for side in ("closed", "paced"):
        found[f"grpc_{side}_added_ms"] = found[f"grpc_{side}_ms"] - found[f"grpc_{side}_direct_ms"]
    for name, value in found.items():
        print(f"{name:<28}{value:>12.3f}")
    rounded = {name: round(value, 3) for name, value in found.items()}
    print(json.dumps({"benchmark": "front", "cpus": os.cpu_count(), **rounded}))


if __name__ == "__main__":
    main()
