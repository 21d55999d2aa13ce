"""The blocking twin of the client, for scripts.

with BlockingMesh("nats://127.0.0.1:4222") as mesh:
    print(mesh.infer("board-defects", "board.png").detections)
    for result in mesh.results("board-defects"):
        print(result.id, result.detections)
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from threading import Thread
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from weakref import WeakSet

from visionmesh.client import DEFAULT_URL, Mesh
from visionmesh.contracts import Result
from visionmesh.tasks import end

P = ParamSpec("P")
T = TypeVar("T")
Call = Callable[P, Coroutine[Any, Any, T]]


def _waiting(
    method: Callable[Concatenate[Mesh, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingMesh, P], T]:
    """Return the twin of a coroutine method: the same parameters, and it waits."""

    @functools.wraps(method)
    def twin(self: BlockingMesh, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(method, self._mesh, *args, **kwargs)

    return twin


def _iterating(
    method: Callable[Concatenate[Mesh, P], AsyncGenerator[Result, None]],
) -> Callable[Concatenate[BlockingMesh, P], Generator[Result, None, None]]:
    """Return the twin of an asynchronous generator: the same parameters, for a plain ``for``."""

    @functools.wraps(method)
    def twin(
        self: BlockingMesh, /, *args: P.args, **kwargs: P.kwargs
    ) -> Generator[Result, None, None]:
        return self._read(method(self._mesh, *args, **kwargs))

    signature = inspect.signature(method)
    returned = "Generator[Result, None, None]"
    twin.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]  # inspect's own convention
    return twin


class BlockingMesh:
    """A `Mesh` whose calls wait; its event loop runs in a thread of its own.

    Any thread may call it. When it is closed, what other threads wait for, loops over `results`
    included, ends with `concurrent.futures.CancelledError`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        name: str = "visionmesh client",
        connect_within: timedelta = timedelta(seconds=10),
    ) -> None:
        self._mesh = Mesh(url, name=name, connect_within=connect_within)
        self._loop: asyncio.AbstractEventLoop | None = None
        # Only the loop's thread uses the rest.
        self._ended = False
        self._calls: set[asyncio.Task[Any]] = set()
        self._readers: WeakSet[_Reader] = WeakSet()

    def __enter__(self) -> Self:
        self._ended = False
        with ExitStack() as opened:
            self._loop = opened.enter_context(_running_loop())
            opened.callback(setattr, self, "_loop", None)
            self._wait(self._mesh.__aenter__)
            opened.callback(self._wait, self._end)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    publish = _waiting(Mesh.publish)
    infer = _waiting(Mesh.infer)
    infer_many = _iterating(Mesh.infer_many)
    result = _waiting(Mesh.result)
    results = _iterating(Mesh.results)
    heatmap = _waiting(Mesh.heatmap)
    nodes = _waiting(Mesh.nodes)

    def _wait(self, call: Call[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._loop is None:
            raise RuntimeError("The mesh is not open: use it as `with BlockingMesh(url) as mesh`.")
        future = asyncio.run_coroutine_threadsafe(self._run(call, *args, **kwargs), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # Ctrl-C interrupts no more than the wait

    def _read(self, results: AsyncGenerator[Result, None]) -> Generator[Result, None, None]:
        reader = _Reader(results)
        try:
            while (result := self._wait(self._next, reader)) is not None:
                yield result
        finally:
            # A loop that was abandoned ends wherever garbage is collected, also in the event
            # loop's thread: so nobody waits here, but `_end` does.
            if self._loop is not None:
                asyncio.run_coroutine_threadsafe(reader.close(), self._loop)

    async def _run(self, call: Call[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.current_task()
        assert task is not None
        if self._ended:
            raise asyncio.CancelledError
        self._calls.add(task)
        try:
            return await call(*args, **kwargs)
        finally:
            self._calls.discard(task)

    async def _next(self, reader: _Reader) -> Result | None:
        self._readers.add(reader)
        return await reader.next()

    async def _end(self) -> None:
        self._ended = True
        await end(call for call in self._calls if call is not asyncio.current_task())
        try:
            await asyncio.gather(*(reader.close() for reader in self._readers))
        finally:
            await self._mesh.__aexit__()


class _Reader:
    """Takes turns: an interrupted `next` may still be on its way out when `close` comes."""

    def __init__(self, results: AsyncGenerator[Result, None]) -> None:
        self._results = results
        self._turn = asyncio.Lock()

    async def next(self) -> Result | None:
        async with self._turn:
            return await anext(self._results, None)

    async def close(self) -> None:
        async with self._turn:
            await self._results.aclose()


@contextmanager
def _running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread; in the end cancel what it still does, and wait for it."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        stopped = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stopped))
        await stopped.wait()

    thread = Thread(target=lambda: asyncio.run(live()), name="visionmesh client", daemon=True)
    thread.start()
    loop, stopped = started.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
