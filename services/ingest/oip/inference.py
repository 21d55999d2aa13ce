"""Requests for inference and for descriptions, whichever wire they came by."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.ingest.door import Caller, Right
from services.ingest.gateway import Gateway
from services.ingest.models import visible
from services.ingest.oip import describe
from services.ingest.oip.answer import outputs, require_ok, want, wishes
from services.ingest.oip.describe import Document
from services.ingest.oip.images import events, read_images
from services.ingest.oip.request import InferRequest, OutputWish
from services.ingest.oip.statistics import Statistics
from services.ingest.oip.tensors import Tensor
from visionmesh.context import Context
from visionmesh.contracts import Want
from visionmesh.errors import Code, Expired, Refused
from visionmesh.models.record import ModelRecord
from visionmesh.subjects import require_token


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who asks which model for something, and by when."""

    model: str
    version: str = ""
    """Empty: the one whose turn it is."""
    source: str
    caller: Caller
    deadline_ns: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The outputs of a request, and as what each is wanted."""

    model: str
    version: str
    id: str
    outputs: Sequence[Tensor]
    wishes: Sequence[OutputWish]

    @property
    def head(self) -> dict[str, str]:
        """What the answer says besides its outputs."""
        named = {"model_name": self.model, "model_version": self.version}
        return named | ({"id": self.id} if self.id else {})


class Inference:
    """Answers what both wires of the protocol ask.

    All methods raise `Refused` and `Reject` for what is unknown, forbidden or malformed.
    """

    def __init__(self, *, context: Context, gateway: Gateway) -> None:
        self._context = context
        self._gateway = gateway
        self._statistics = Statistics()

    async def admit(self, call: Call) -> None:
        """Raise what would keep a request from being worked on, whatever is in it."""
        call.caller.require(Right.INFER, call.model)
        await self._gateway.require(call.model, _number(call.version))

    async def infer(self, call: Call, request: InferRequest) -> Answer:
        """Return the outputs for the images of a request."""
        record, number = await self._find(call, request)
        version = record.version(number)
        images = read_images(request, version)
        wanted = wishes(request, version, prepared=images.prepared)
        asked = want(wanted)
        await call.caller.spend(len(images.bodies))
        begun_ns = time.time_ns()
        of_one_version = bool(call.version) or images.prepared or asked is not Want.RESULT
        try:
            replies = await self._gateway.infer_all(
                events(
                    request,
                    images,
                    model=call.model,
                    source=call.source,
                    want=asked,
                    deadline_ns=_deadline_ns(call.deadline_ns, request.options.timeout),
                    traceparent=call.traceparent,
                    tracestate=call.tracestate,
                ),
                version=number if of_one_version else None,
            )
            require_ok(replies)
            tensors = outputs(replies, wanted, version)
        except (Refused, Expired):
            self._statistics.failed(call.model, number, ns=time.time_ns() - begun_ns)
            raise
        results = [reply.result() for reply in replies]
        answered = next((result.version for result in results if result.version), number)
        self._statistics.succeeded(
            call.model,
            answered,
            ns=time.time_ns() - begun_ns,
            results=results,
        )
        return Answer(
            model=call.model,
            version=str(answered),
            id=request.id,
            outputs=tensors,
            wishes=wanted,
        )

    def ready(self) -> bool:
        """Say whether requests can be worked on at all."""
        return bool(self._context.connection.client.is_connected)

    async def model_ready(self, call: Call) -> bool:
        """Say whether a model's version, or any of it, can answer now."""
        record = await self._record(call)
        ready = self._context.nodes.versions(record.spec.name)
        number = _number(call.version)
        return bool(ready) if number is None else number in ready

    async def metadata(self, call: Call) -> Document:
        return describe.metadata(*await self._described(call))

    async def config(self, call: Call) -> Document:
        return describe.config(*await self._described(call))

    async def statistics(self, call: Call) -> Document:
        """Return what this worker has answered, of all that may be read of if none is named."""
        if not call.model:
            records = visible(call.caller, self._records())
        else:
            records = [await self._record(call)]
        only = _number(call.version)
        return {
            "model_stats": [
                self._statistics.document(record.spec.name, number)
                for record in records
                for number in ([only] if only is not None else sorted(record.versions))
            ]
        }

    def _records(self) -> list[ModelRecord]:
        catalog = self._context.catalog
        found = (catalog.find(name) for name in catalog.names())
        return [record for record in found if record is not None]

    async def _record(self, call: Call) -> ModelRecord:
        """Return the model; raise `Refused` if it, or the version that is named, is not there."""
        try:
            call.caller.require(Right.INFER, call.model)
        except Refused:
            call.caller.require(Right.READ, call.model)
        record = await self._context.catalog.look_up(require_token("model", call.model))
        if (number := _number(call.version)) is not None:
            record.version(number)
        return record

    async def _described(self, call: Call) -> tuple[ModelRecord, int]:
        record = await self._record(call)
        number = _number(call.version)
        return record, describe.usual_version(record) if number is None else number

    async def _find(self, call: Call, request: InferRequest) -> tuple[ModelRecord, int]:
        """Return the model, and the version by whose tensors the request is read."""
        record = await self._context.catalog.look_up(require_token("model", call.model))
        if (number := _number(call.version)) is None:
            ready = self._context.nodes.versions(call.model)
            number = record.choose(request.id or uuid.uuid4().hex, call.source, ready=ready)
        return record, number


def _number(version: str) -> int | None:
    if not version:
        return None
    if not version.isascii() or not version.isdigit() or len(version) > len(str(1 << 63)):
        raise Refused(Code.UNKNOWN_VERSION, f"Versions are numbers, not {version[:40]!r}.")
    return int(version)


def _deadline_ns(deadline_ns: int | None, timeout: timedelta | None) -> int | None:
    """Return the earlier one."""
    if timeout is None:
        return deadline_ns
    ends_ns = time.time_ns() + timeout // timedelta(microseconds=1) * 1000
    return ends_ns if deadline_ns is None else min(deadline_ns, ends_ns)
