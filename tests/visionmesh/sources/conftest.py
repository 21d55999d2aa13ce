"""Videos as files and as streams of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

FPS = 10
SIZE = (64, 48)


def scene(number: int) -> NDArray[np.uint8]:
    """Return a picture ``(48, 64, 3) uint8`` BGR whose brightness tells its number, up to 24."""
    return np.full((*SIZE[::-1], 3), 10 * number, np.uint8)


def number_of(pixels: NDArray[np.uint8]) -> int:
    """Return the number of a scene, in spite of its compression."""
    return round(float(pixels.mean()) / 10)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A file of 20 scenes, two seconds long."""
    file = tmp_path / "film.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE)
    for number in range(20):
        writer.write(scene(number))
    writer.release()
    return file


class Stream:
    """A camera on the network: JPEGs without an end, until it dies."""

    def __init__(self) -> None:
        self.visits = 0
        self.lives = asyncio.Event()
        self.lives.set()
        self.url = ""
        self._guests: set[asyncio.StreamWriter] = set()

    def die(self) -> None:
        """Send no more, and hang up."""
        self.lives.clear()
        for guest in self._guests:
            guest.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        self._guests.add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self.lives.is_set():
                await self._send(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the guest went away first
        finally:
            self._guests.discard(writer)
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=part\r\n\r\n"
        )
        number = 0
        while self.lives.is_set() and not writer.is_closing():
            _, jpeg = cv2.imencode(".jpg", scene(number % 24))
            head = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {jpeg.size}\r\n\r\n"
            writer.write(head.encode() + jpeg.tobytes() + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)  # the camera's own pace
            number += 1


@asynccontextmanager
async def streaming() -> AsyncIterator[Stream]:
    """Serve a stream on a port of its own."""
    stream = Stream()
    server = await asyncio.start_server(stream.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    stream.url = f"http://{host}:{port}/camera"
    async with server:
        yield stream
        stream.die()


@pytest.fixture
async def stream() -> AsyncIterator[Stream]:
    async with streaming() as running:
        yield running
