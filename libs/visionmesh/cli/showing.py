"""The demo itself: boards in, annotated pictures out, and a screen that tells how it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from visionmesh import subjects
from visionmesh.bus import Connection, api
from visionmesh.cli.load import Load, Measured
from visionmesh.cli.results import draw_file
from visionmesh.cli.screen import Screen, summary
from visionmesh.cli.sending import beside
from visionmesh.client import Mesh
from visionmesh.contracts import Result
from visionmesh.errors import Code, Refused
from visionmesh.local import LocalMesh
from visiontune.boards import draw_board

_WINDOW = 16
"""Images in the mesh at once: enough to fill batches, few enough to answer soon."""
_REPEATED = 0.2
"""Share of boards that were seen before, so that the cache has something to do."""
_REMEMBERED = 200
_REFRESH = timedelta(milliseconds=500)
_PICTURES = 24
"""Files in the output folder; the oldest is overwritten then."""
_QUEUES = (subjects.EVENTS, subjects.IMAGES, subjects.TENSORS, subjects.OUTPUTS)


class Boards:
    """Photos of circuit boards that nobody has seen, and now and then one again, as PNG."""

    def __init__(self, *, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._fresh = self._draw()
        self._seen: list[bytes] = []

    def __call__(self) -> bytes:
        if self._seen and self._rng.random() < _REPEATED:
            return self._seen[self._rng.integers(len(self._seen))]
        image = next(self._fresh)
        if len(self._seen) < _REMEMBERED:
            self._seen.append(image)
        return image

    def _draw(self) -> Iterator[bytes]:
        # Drawing takes longer than recognising: so each board is turned and mirrored in all ways.
        while True:
            board = draw_board(self._rng).image
            for turns in range(4):
                turned = np.rot90(board, turns)
                yield _encode(turned)
                yield _encode(np.fliplr(turned))


def _encode(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(image))[1].tobytes()


class Show:
    """Runs ``mesh`` with a load of boards."""

    def __init__(self, *, mesh: LocalMesh, model: str, out: Path, console: Console) -> None:
        self._mesh = mesh
        self._model = model
        self._out = out
        self._console = console
        self._latest: tuple[Result, bytes] | None = None
        self._drawn = 0
        self._measured = Measured()

    async def run(self, *, seconds: float | None) -> None:
        """Show for ``seconds``, or until cancelled; nothing runs any more afterwards.

        Pictures of an earlier show are removed first.

        Raises
        ------
        Refused
            If no image was answered.
        """
        for old in self._pictures():
            old.unlink()
        self._console.print("starting NATS, Valkey and the four services …")
        async with self._mesh, Mesh(self._mesh.nats_url, name="visionmesh demo") as client:
            load = Load(
                mesh=client,
                model=self._model,
                source="demo",
                picture=Boards(seed=0),
                window=_WINDOW,
                show=self._note,
                measured=self._measured,
            )
            with Screen(
                console=self._console,
                measured=self._measured,
                title=f"visionmesh demo · {self._mesh.http_url}",
            ) as self._screen:
                stop = asyncio.Event()
                if seconds is not None:
                    asyncio.get_running_loop().call_later(seconds, stop.set)
                try:
                    await beside(self._refresh(), load.run(stop=stop))
                finally:
                    self._console.print("ending …")
        if not self._measured.answered:
            raise Refused(Code.TIMEOUT, "No image was answered.")

    def sum_up(self) -> None:
        """Print what was measured."""
        if self._measured.answered:
            count = len(self._pictures())
            pictures = "1 annotated picture is" if count == 1 else f"{count} annotated pictures are"
            self._console.print(summary(self._measured, rate=self._measured.rate()))
            self._console.print(f"{pictures} in {self._out}")

    def _pictures(self) -> list[Path]:
        return list(self._out.glob("board-[0-9][0-9].jpg"))

    def _note(self, result: Result, image: bytes) -> None:
        self._latest = result, image
        self._screen.note(result)

    async def _refresh(self) -> None:
        connection = await Connection.open(self._mesh.nats_url, name="visionmesh demo screen")
        try:
            while True:
                depths = {name: await _depth(connection, name) for name in _QUEUES}
                self._screen.show(depths)
                await self._draw_latest()
                await asyncio.sleep(_REFRESH.total_seconds())
        finally:
            await connection.close()

    async def _draw_latest(self) -> None:
        if self._latest is None:
            return
        result, image = self._latest
        self._latest = None
        file = self._out / f"board-{self._drawn % _PICTURES:02}.jpg"
        await asyncio.to_thread(draw_file, image, result, file)
        self._drawn += 1


async def _depth(connection: Connection, stream: str) -> int:
    info = await api.request(connection.client, f"STREAM.INFO.{stream}")
    return int(info["state"]["messages"])
