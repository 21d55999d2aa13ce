"""What one span says, and the one table of the names and attributes that spans carry.

Names and keys follow OpenTelemetry's semantic conventions for messaging
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/) as far as they fit; the
rest begins with ``visionmesh.``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import count
from typing import NamedTuple

AttributeValue = str | bool | int | float
Link = tuple[str, str]
"""The trace id and the span id of a span elsewhere that this one belongs to, too."""


class SpanKind(StrEnum):
    INTERNAL = "internal"
    SERVER = "server"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span(NamedTuple):
    """Something that happened to an image, recorded after the fact.

    Ids are lower-case hexadecimal (32 digits for traces, 16 for spans); times are Unix time in
    nanoseconds. A tuple, because a busy service records a thousand of them per second.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    kind: SpanKind = SpanKind.INTERNAL
    attributes: Mapping[str, AttributeValue] = {}
    links: Sequence[Link] = ()
    ok: bool = True
    tracestate: str = ""


class SpanName:
    """The name of each span: an operation, and what it is done to.

    ======================= ========== ===========================================================
    span                    kind       from, to
    ======================= ========== ===========================================================
    `IMAGE`, the root       internal   the producer's publication, the result stored
    `receive` STREAM        consumer   the delivery arrived, its handler began
    `queue` STREAM          internal   put into the stream, delivered to a worker
    `process` STAGE         consumer   the handler of one image began, its outcome is known; the
                                       first stage of a request, which no stream brings, is a server
    `DECODE_IMAGE`          internal   encoded bytes, the model's input
    `BATCH`                 internal   the first image waits, the last is out; linked to its images
    `ENGINE`                internal   the engine runs one batch
    `DECODE_OUTPUTS`        internal   the engine's outputs, boxes and classes
    `publish` STREAM        producer   handed to the connection, acknowledged by the server
    ======================= ========== ===========================================================
    """

    IMAGE = "visionmesh image"
    DECODE_IMAGE = "decode image"
    BATCH = "batch"
    ENGINE = "engine"
    DECODE_OUTPUTS = "decode outputs"

    @staticmethod
    def receive(stream: str) -> str:
        return f"receive {stream}"

    @staticmethod
    def queue(stream: str) -> str:
        return f"queue {stream}"

    @staticmethod
    def process(stage: str) -> str:
        return f"process {stage}"

    @staticmethod
    def publish(stream: str) -> str:
        return f"publish {stream}"


class Key:
    """The key of each attribute."""

    SYSTEM = "messaging.system"
    """Always `NATS`."""
    OPERATION_NAME = "messaging.operation.name"
    OPERATION_TYPE = "messaging.operation.type"
    DESTINATION = "messaging.destination.name"
    """The name of the stream."""
    MESSAGE_ID = "messaging.message.id"
    """The event's id; the root span must have it, `visionmesh trace ID` looks for it there."""
    BATCH_COUNT = "messaging.batch.message_count"
    """Of images in one batch of the engine."""
    MODEL = "visionmesh.model"
    VERSION = "visionmesh.model.version"
    SOURCE = "visionmesh.source"
    STATUS = "visionmesh.status"
    """``ok``, ``error`` or ``expired``; on the root span."""
    CACHE = "visionmesh.cache.level"
    DELIVERY = "visionmesh.delivery"
    """How often the message was delivered, from 1; absent when once."""
    ENGINE = "visionmesh.engine"
    ERROR = "error.type"
    """One of `visionmesh.errors.Code`."""


NATS = "nats"

# The operation's type for each operation's name.
_TYPES = {"receive": "receive", "process": "process", "publish": "send"}


def messaging(
    operation: str, stream: str, *, more: Mapping[str, AttributeValue] | None = None
) -> dict[str, AttributeValue]:
    """Return the attributes of a ``receive``, ``process`` or ``publish`` of ``stream``."""
    attributes: dict[str, AttributeValue] = {
        Key.SYSTEM: NATS,
        Key.OPERATION_NAME: operation,
        Key.OPERATION_TYPE: _TYPES[operation],
        Key.DESTINATION: stream,
    }
    if more:
        attributes.update(more)
    return attributes


class Step(NamedTuple):
    """Something that happened to an image within one stage; times are Unix time in nanoseconds."""

    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, AttributeValue]
    links: Sequence[Link]


_MESSAGE_KINDS = {"receive": SpanKind.CONSUMER, "publish": SpanKind.PRODUCER}
"""Of the steps that are about a message: their first word, and their kind."""


class Visit(NamedTuple):
    """All that one stage recorded of one image, as compact as it was recorded.

    Five spans say the same in ten times the room; they are made by `spans`, where somebody looks.
    """

    stage: str
    stream: str
    """What brought the image; empty: a request did."""
    trace_id: str
    root_id: str
    span_id: str
    model: str
    sent_ns: int
    """When the image was put into ``stream``; 0: it came otherwise."""
    began_ns: int
    ended_ns: int
    attempt: int
    error: str
    steps: Sequence[Step]

    def spans(self) -> Iterator[Span]:
        """Yield the stage, the queue and the steps; equal visits yield equal spans."""
        own = int(self.span_id, 16)
        ids = (f"{(own + number) % (1 << 64):016x}" for number in count(1))
        yield self._stage()
        if self.sent_ns and self.stream:
            yield self._queue(next(ids))
        for step, id in zip(self.steps, ids, strict=False):
            yield self._step(step, id)

    @property
    def _arrival(self) -> str:
        return SpanName.receive(self.stream)

    def _stage(self) -> Span:
        more: dict[str, AttributeValue] = {Key.MODEL: self.model}
        if self.error:
            more[Key.ERROR] = self.error
        if self.attempt > 1:
            more[Key.DELIVERY] = self.attempt
        return Span(
            SpanName.process(self.stage),
            self.trace_id,
            self.span_id,
            self.root_id,
            self.began_ns,
            self.ended_ns,
            SpanKind.CONSUMER if self.stream else SpanKind.SERVER,
            messaging("process", self.stream, more=more) if self.stream else more,
            ok=not self.error,
        )

    def _queue(self, id: str) -> Span:
        arrivals = (step.start_ns for step in self.steps if step.name == self._arrival)
        return Span(
            SpanName.queue(self.stream),
            self.trace_id,
            id,
            self.root_id,
            self.sent_ns,
            next(arrivals, self.began_ns),
            attributes={Key.DESTINATION: self.stream},
        )

    def _step(self, step: Step, id: str) -> Span:
        verb, _, stream = step.name.partition(" ")
        of_message = verb in _MESSAGE_KINDS
        return Span(
            step.name,
            self.trace_id,
            id,
            # The delivery arrives before the stage begins.
            self.root_id if step.name == self._arrival else self.span_id,
            step.start_ns,
            step.end_ns,
            _MESSAGE_KINDS[verb] if of_message else SpanKind.INTERNAL,
            messaging(verb, stream) if of_message else step.attributes,
            step.links,
        )


Recorded = Span | Visit


def unfold(recorded: Iterable[Recorded]) -> Iterator[Span]:
    """Yield the spans of all that was recorded."""
    for one in recorded:
        if isinstance(one, Visit):
            yield from one.spans()
        else:
            yield one
