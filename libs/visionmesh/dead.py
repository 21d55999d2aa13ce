"""DEAD: events that ended in an error or too late, kept with their images for a week."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from itertools import count
from typing import NamedTuple

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from visionmesh import events, subjects
from visionmesh.bus import Connection, Publisher, api
from visionmesh.contracts import Frozen
from visionmesh.errors import Code, Refused
from visionmesh.publishing import once

_READ_TIMEOUT = 10.0
_REPLAY_MARK = "~"
_SERVERS = "Nats-"
"""How headers begin in which the server tells of a message."""
_SUBJECT = "Nats-Subject"


class DeadLetter(Frozen):
    """One event that could not be answered as asked, without its image."""

    number: int
    """Its place in the stream."""
    time: datetime
    stage: str
    """Who gave it up."""
    model: str
    source: str
    id: str
    code: str
    message: str


class Original(NamedTuple):
    """The event as its producer published it."""

    headers: Mapping[str, str]
    body: bytes


class DeadLetters:
    """Reads DEAD, and publishes what lies there once more."""

    def __init__(self, *, connection: Connection, publisher: Publisher) -> None:
        self._client = connection.client
        self._publisher = publisher

    async def list(self, *, model: str | None = None, last: int = 50) -> list[DeadLetter]:
        """Return the ``last`` dead letters, of one model or of all, in the order they came."""
        which = "*" if model is None else subjects.require_token("model", model)
        subject = subjects.dead("*", which)
        info = await api.request(
            self._client, f"STREAM.INFO.{subjects.DEAD}", {"subjects_filter": subject}
        )
        if not info["state"].get("subjects"):
            return []
        subscription = await self._client.jetstream().subscribe(
            subject,
            ordered_consumer=True,
            config=ConsumerConfig(
                headers_only=True, deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE
            ),
        )
        found = deque[DeadLetter](maxlen=last)
        try:
            while True:
                message: Msg = await subscription.next_msg(timeout=_READ_TIMEOUT)
                place = message.metadata
                found.append(_letter(message.subject, place.sequence.stream, message.headers or {}))
                if not place.num_pending:
                    return list(found)
        finally:
            await subscription.unsubscribe()

    async def get(self, number: int) -> tuple[DeadLetter, Original]:
        """Return one dead letter and its event.

        Raises
        ------
        Refused
            If there is none of this number (not_found).
        """
        message = await api.stored_message(self._client, subjects.DEAD, seq=number)
        if message is None:
            raise Refused(Code.NOT_FOUND, f"There is no dead letter {number} (any more).")
        headers = message.headers or {}
        letter = _letter(headers[_SUBJECT], number, headers)
        kept = {
            name: value
            for name, value in headers.items()
            if name not in _ADDED and not name.startswith(_SERVERS)
        }
        return letter, Original(kept, message.data)

    async def replay(self, number: int) -> str:
        """Publish the event again, without its deadline; return the id that it answers under.

        Raises
        ------
        Refused
            If there is none of this number, or the mesh does not take it.
        Reject
            If the event can never be read, such as one with broken headers.
        """
        letter, original = await self.get(number)
        event = events.parse(
            model=letter.model,
            source=letter.source,
            headers={k: v for k, v in original.headers.items() if k.lower() != "vm-deadline"},
            body=original.body,
        )
        fresh = await self._unanswered_id(letter)
        again = replace(event, id=fresh, deadline_ns=None)
        await self._publisher.publish(
            subjects.event(again.model, again.source),
            again.image,
            headers=once(again),
        )
        return fresh

    async def _unanswered_id(self, letter: DeadLetter) -> str:
        """Return the event's id with the first number that no result has yet."""
        before, _, attempt = letter.id.rpartition(_REPLAY_MARK)
        base = before if before and attempt.isdigit() else letter.id
        attempts = count(1)
        while True:
            candidate = f"{base}{_REPLAY_MARK}{next(attempts)}"
            subject = subjects.result(letter.model, letter.source, candidate)
            if not await api.stored_message(self._client, subjects.RESULTS, last_by_subj=subject):
                return candidate


_ADDED = frozenset({"Vm-Id", "Vm-Source", "Vm-Error-Code", "Vm-Error-Message", "Vm-Time"})


def _letter(subject: str, number: int, headers: Mapping[str, str]) -> DeadLetter:
    _, _, stage, model = subject.split(".")
    return DeadLetter(
        number=number,
        time=datetime.fromisoformat(headers["Vm-Time"]),
        stage=stage,
        model=model,
        source=headers["Vm-Source"],
        id=headers["Vm-Id"],
        code=headers["Vm-Error-Code"],
        message=headers["Vm-Error-Message"],
    )
