"""A closed-loop producer and consumer: keeps a number of events in flight and times each."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nats.aio.msg import Msg

from visionmesh.client import Mesh
from visionmesh.contracts import Result
from visionmesh.local import LocalMesh
from visionmesh.settings import IngestSettings, Settings

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "photos"


def photos(folder: Path = PHOTOS) -> list[bytes]:
    """Return the encoded images of ``folder``."""
    return [file.read_bytes() for file in sorted(folder.glob("*.jpg"))]


def distinct(images: Sequence[bytes]) -> Iterator[bytes]:
    """Yield images for ever, no two alike: decoders ignore what follows the end of a JPEG."""
    for number, image in enumerate(itertools.cycle(images)):
        yield image + number.to_bytes(8)


@dataclass
class Load:
    """What a run showed; latencies in seconds, from publishing to the result at the consumer."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Return a quantile of the latencies in milliseconds."""
        return float(np.quantile(self.latencies, share)) * 1e3


@asynccontextmanager
async def fresh_mesh(
    *folders: Path,
    max_requests: int = IngestSettings().max_requests,
    settings: Settings | None = None,
    nats_url: str | None = None,
) -> AsyncIterator[tuple[LocalMesh, Mesh]]:
    """Run a mesh of its own with the models in ``folders``, and a client of it."""
    own = IngestSettings(port=0, grpc_port=0, max_requests=max_requests)
    settings = settings or Settings(ingest=own)
    with tempfile.TemporaryDirectory() as state:
        async with (
            LocalMesh(
                state=Path(state), settings=settings, models=folders, nats_url=nats_url
            ) as running,
            Mesh(running.nats_url) as client,
        ):
            yield running, client


class Driver:
    """Publishes through the client, and hears every result of one source."""

    def __init__(self, *, mesh: Mesh, model: str, source: str = "bench") -> None:
        self._mesh = mesh
        self._model = model
        self._source = source
        self._began: dict[str, float] = {}
        self._free = asyncio.Semaphore(0)
        self.load = Load()

    async def run(
        self,
        images: Iterator[bytes],
        *,
        in_flight: int,
        seconds: float | None = None,
        count: int | None = None,
    ) -> Load:
        """Publish for ``seconds``, or ``count`` images; return when all have their results."""
        subject = f"vm.results.{self._model}.{self._source}.*"
        client = self._mesh._connection.client  # cheaper than a consumer of its own
        subscription = await client.subscribe(subject, cb=self._heard)
        self.load = Load()
        self._free = asyncio.Semaphore(in_flight)
        began = time.perf_counter()
        published: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            if number == count or (seconds and time.perf_counter() - began > seconds):
                break
            await self._free.acquire()
            task = asyncio.create_task(self._publish(next(images)))
            published.add(task)
            task.add_done_callback(published.discard)
        for _ in range(in_flight):
            await self._free.acquire()
        self.load.seconds = time.perf_counter() - began
        await subscription.unsubscribe()
        return self.load

    async def _publish(self, image: bytes) -> None:
        number = f"{time.time_ns():x}-{len(self._began)}"
        self._began[number] = time.perf_counter()
        await self._mesh.publish(self._model, image, source=self._source, id=number)

    async def _heard(self, message: Msg) -> None:
        event = message.subject.rpartition(".")[2]
        began = self._began.pop(event, None)
        if began is None:
            return
        self.load.latencies.append(time.perf_counter() - began)
        result = Result.model_validate_json(message.data)
        self.load.statuses[result.status] = self.load.statuses.get(result.status, 0) + 1
        level = (result.cache and result.cache.level) or "none"
        self.load.cached[level] = self.load.cached.get(level, 0) + 1
        self._free.release()
