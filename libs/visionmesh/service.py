"""One worker process: from its settings to its orderly end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from typing import Protocol

import uvloop

from visionmesh.context import Context, open_context
from visionmesh.errors import Code, Fatal, VisionmeshError
from visionmesh.hosts import with_port
from visionmesh.http import App, HttpServer, Tls, status_app
from visionmesh.settings import IngestSettings, ServiceSettings, Settings, load_settings

GC_THRESHOLD = (20_000, 20, 50)
"""Images leave hardly any cycles behind: a collection for every few hundred of them is enough."""
_ENDED = "The NATS server has ended the connection."

log = logging.getLogger(__name__)


class Worker(Protocol):
    """What a service is made of."""

    @property
    def in_hand(self) -> int:
        """Images that it works on."""

    @property
    def unfit(self) -> str | None:
        """Why it should get no work now, though it may get better."""
        return None

    def app(self, status: App) -> App:
        """Return what HTTP serves: ``status``, or more around it."""
        return status

    async def start(self) -> None:
        """Return when this worker takes work."""

    async def stop(self) -> None:
        """Take nothing more and finish what is in hand; requests by HTTP may go on."""

    async def close(self) -> None:
        """Let go of what those needed: the last one has ended."""
        return


async def serve(
    settings: Settings, *, stage: str, stream: str, build: Callable[[Context], Worker]
) -> None:
    """Run one worker until SIGTERM or SIGINT; raise what made it unfit."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with open_context(settings, stage=stage, stream=stream) as context:
        context.connection.on_end(lambda: context.fail(Fatal(Code.MESH_UNREACHABLE, _ENDED)))
        worker = build(context)
        context.metrics.watch_in_flight(lambda: worker.in_hand)
        unready: str | None = "the models are being read"
        status = status_app(metrics=context.metrics, ready=lambda: unready or worker.unfit)
        tls = _tls(context.own)
        server = HttpServer(
            app=worker.app(status), host=settings.host, port=context.own.port, tls=tls
        )
        port = await server.start()
        url = f"http{'s' if tls else ''}://{with_port(settings.host, port)}"
        try:
            await context.nodes.start(load=lambda: worker.in_hand)
            await worker.start()
            unready = None
            await context.nodes.update(ready=True, http=url)
            settle_memory()
            log.info("%s is ready, %s", stage, url)
            await _until(stopped, context)
            unready = "stopping"
            log.info("%s stops", stage)
        finally:
            await context.nodes.stop()
            await worker.stop()
            await server.stop()
            await worker.close()


def _tls(own: ServiceSettings) -> Tls | None:
    """Return what the service that strangers talk to is told of TLS; the others speak none."""
    if not isinstance(own, IngestSettings) or own.tls is None:
        return None
    return Tls(certificate=own.tls.certificate, key=own.tls.key)


def settle_memory() -> None:
    """Keep the collector from walking again and again over what lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


async def _until(stopped: asyncio.Event, context: Context) -> None:
    waiting = asyncio.ensure_future(stopped.wait())
    await asyncio.wait((waiting, context.failed), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if context.failed.done():
        context.failed.result()


def run(*, stage: str, stream: str, build: Callable[[Context], Worker]) -> int:
    """Be the process of one service; settings come from the environment; return its exit code."""
    logging.basicConfig(
        level=os.environ.get("VISIONMESH_LOG", "INFO"),
        format=f"%(asctime)s {stage} %(levelname)s %(message)s",
    )
    try:
        settings = load_settings()
        if nice := getattr(settings, stage).nice:
            os.nice(nice)
        uvloop.run(serve(settings, stage=stage, stream=stream, build=build))
    except VisionmeshError as error:
        log.error("%s", error)
        return 1
    return 0
