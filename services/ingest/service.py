"""The ingest worker: events and requests in, references to encoded images out."""

from __future__ import annotations

from services.ingest.admission import Admission
from services.ingest.callers import Callers
from services.ingest.door import Door
from services.ingest.front import Front, OwnPages
from services.ingest.gateway import Gateway
from services.ingest.heard import Heard
from services.ingest.intake import Intake
from services.ingest.limits import Limits
from services.ingest.models import Models
from services.ingest.mqtt import Bridge
from services.ingest.oip.server import OpenInference
from services.ingest.ollama import routes as ollama
from services.ingest.rest.app import Rest
from services.ingest.urls import Urls
from visionmesh.context import Context
from visionmesh.http import App
from visionmesh.keys.quota import Quota
from visionmesh.keys.ring import KeyRing
from visionmesh.keys.store import KeyStore
from visionmesh.service import Worker


class Ingest(Worker):
    """Puts the parts of the access layer together.

    ``urls`` fetches images that requests name; by default from where the settings allow it.
    """

    def __init__(self, context: Context, *, urls: Urls | None = None) -> None:
        self._context = context
        settings = context.settings.ingest
        self._urls = urls or Urls(settings=settings.urls, max_bytes=settings.max_image_bytes)
        self._admission = Admission(context=context)
        self._callers = Callers(connection=context.connection, reader=context.reader)
        self._gateway = Gateway(context=context, admission=self._admission, callers=self._callers)
        self._intake = Intake(context=context, admission=self._admission)
        self._heard = Heard(context=context)
        self._models = Models(context=context)
        self._door = _door(context)
        self._open_inference = OpenInference(
            context=context, gateway=self._gateway, door=self._door, models=self._models
        )
        self._bridge = Bridge(context=context)

    @property
    def in_hand(self) -> int:
        return self._intake.in_hand + len(self._callers)

    def app(self, status: App) -> App:
        self._rest = Rest(context=self._context, gateway=self._gateway, urls=self._urls)
        own = self._rest.app
        chat = ollama.build_app(
            gateway=self._gateway, models=self._models, settings=self._context.settings
        )
        protocols: dict[str, App] = {
            "/v1": own,
            "/docs": own,
            "/openapi.json": own,
            "/v2": self._open_inference.app,
            "/api": chat,
            "/": chat,
        }
        front = Front(protocols=protocols, rest=status)
        known = self._door.guard(OwnPages(app=front, host=self._context.settings.host))
        self._limits = Limits(
            app=known, settings=self._context.settings.ingest, streamed=("/api/blobs/",)
        )
        return self._limits

    async def start(self) -> None:
        await self._context.cache.inspect()
        await self._door.start()
        await self._callers.start()
        await self._admission.shadows.start()
        await self._heard.start()
        await self._intake.start()
        await self._open_inference.start()
        await self._bridge.start()

    async def stop(self) -> None:
        self._limits.drain()
        self._rest.stop()
        await self._open_inference.stop()
        await self._bridge.stop()
        await self._heard.stop()
        await self._intake.stop()

    async def close(self) -> None:
        await self._admission.shadows.stop()
        await self._urls.close()
        await self._door.stop()


def _door(context: Context) -> Door:
    settings = context.settings
    store = KeyStore(context.connection.client, replicas=settings.events.replicas)
    return Door(
        keys=KeyRing(store, fail=context.fail),
        quota=Quota(url=settings.redis_url),
        host=settings.host,
        policy=settings.ingest.keys,
    )
