"""The ingest worker: events and requests in, references to encoded images out."""

from __future__ import annotations

from services.ingest.admission import Admission
from services.ingest.callers import Callers
from services.ingest.door import Door
from services.ingest.front import Front
from services.ingest.gateway import Gateway
from services.ingest.heard import Heard
from services.ingest.intake import Intake
from services.ingest.models import Models
from services.ingest.ollama import routes as ollama
from services.ingest.rest import infer as rest
from visionmesh.context import Context
from visionmesh.http import App
from visionmesh.keys.quota import Quota
from visionmesh.keys.ring import KeyRing
from visionmesh.keys.store import KeyStore
from visionmesh.service import Worker


class Ingest(Worker):
    """Puts the parts of the access layer together."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._admission = Admission(context=context)
        self._callers = Callers(connection=context.connection, reader=context.reader)
        self._intake = Intake(context=context, admission=self._admission)
        self._heard = Heard(context=context)
        self._models = Models(context=context)
        self._door = _door(context)

    @property
    def in_hand(self) -> int:
        return self._intake.in_hand + len(self._callers)

    def app(self, status: App) -> App:
        gateway = Gateway(context=self._context, admission=self._admission, callers=self._callers)
        limit = self._context.settings.ingest.max_image_bytes
        own = rest.build_app(gateway=gateway, max_bytes=limit)
        chat = ollama.build_app(
            gateway=gateway, models=self._models, settings=self._context.settings
        )
        protocols = {"/v1": own, "/docs": own, "/openapi.json": own, "/api": chat, "/": chat}
        front = Front(protocols=protocols, rest=status)
        return self._door.guard(front)

    async def start(self) -> None:
        await self._door.start()
        await self._callers.start()
        await self._admission.shadows.start()
        await self._heard.start()
        await self._intake.start()

    async def stop(self) -> None:
        await self._heard.stop()
        await self._intake.stop()
        await self._admission.shadows.stop()
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
