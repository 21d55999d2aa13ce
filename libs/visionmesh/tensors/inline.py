"""The arena for readers on other hosts: the bytes travel in the message."""

from __future__ import annotations

from datetime import timedelta
from typing import Self

from visionmesh.contracts import InlineLocation
from visionmesh.errors import Code, Miss, Reject


class InlineSlot:
    """Bytes for the body of a message."""

    __slots__ = ("view",)

    device = None

    def __init__(self, nbytes: int) -> None:
        self.view = memoryview(bytearray(nbytes))

    def commit(self) -> InlineLocation:
        """Return where ``view`` lies in a message that carries nothing else.

        Whoever puts several payloads into one message states the offset of each.
        """
        return InlineLocation(offset=0, length=len(self.view))

    def discard(self) -> None:
        """Do nothing: the bytes go with the slot."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the bytes go with the slot."""


class InlineArena:
    """Memory of this process, for payloads of at most ``max_bytes``."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def reserve(self, nbytes: int) -> InlineSlot:
        """Return room for ``nbytes``; raise `Reject` if no message can carry that."""
        if nbytes > self._max_bytes:
            raise Reject(
                Code.PAYLOAD_TOO_LARGE,
                f"{nbytes} bytes do not fit into a message of at most {self._max_bytes}.",
            )
        return InlineSlot(nbytes)

    async def acquire(self, nbytes: int, *, timeout: timedelta) -> InlineSlot:  # noqa: ASYNC109 - as all arenas; here nothing waits
        """Return room for ``nbytes``, at once.

        Raises
        ------
        Reject
            If no message can carry that (payload_too_large).
        """
        return self.reserve(nbytes)

    def close(self) -> None:
        """Do nothing: there is nothing but the slots."""


class InlineReading:
    """A payload in the body of a message."""

    __slots__ = ("view",)

    device = None

    def __init__(self, *, location: InlineLocation, body: memoryview) -> None:
        """Find the payload in ``body``; raise `Miss` if the body ends before it does."""
        begin, end = location.offset, location.offset + location.length
        if not 0 <= begin <= end <= len(body):
            raise Miss(f"The message of {len(body)} bytes has no payload at {begin} to {end}.")
        self.view = body[begin:end].toreadonly()

    def check(self) -> None:
        """Do nothing: nobody writes to a message."""

    def release(self) -> None:
        """Do nothing: the bytes go with the message."""
