"""The shape that all arenas share: reserve, fill, commit; then read, check, release.

Pixels do not travel in messages. A writer reserves room in its arena, fills it, commits it, and
sends the `Location` that the commit returned; the reader of the message resolves the location,
works on the bytes where they lie, makes sure that they were still the same afterwards, and
releases them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol, Self

from visionmesh.contracts import Location
from visionmesh.gpu.gpu import DeviceArray


class Slot(Protocol):
    """Room for one payload; leaving its ``with`` block without a commit discards it."""

    @property
    def view(self) -> memoryview:
        """The writable bytes, exactly as many as were asked for; none in a GPU's memory."""

    @property
    def device(self) -> DeviceArray | None:
        """The same in a GPU's memory, ``(nbytes,) uint8``; `None` if it is the host's.

        What writes there must be finished before the slot is committed or discarded.
        """

    def commit(self) -> Location:
        """Publish what was written; the view must not be written to any more."""

    def discard(self) -> None:
        """Give the room back without publishing it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Arena(Protocol):
    """Where a writer puts the payloads that it refers to."""

    def reserve(self, nbytes: int) -> Slot | None:
        """Return room for ``nbytes``, or `None` if one would have to wait for it."""

    async def acquire(self, nbytes: int, *, timeout: timedelta) -> Slot:  # noqa: ASYNC109 - see ShmArena.acquire
        """Return room for ``nbytes``, waiting up to ``timeout`` for it.

        Raises
        ------
        Retry
            If there was no room in time.
        Reject
            If there can never be room (payload_too_large).
        """

    def close(self) -> None:
        """Give everything back; references to this arena miss from now on."""


class Reading(Protocol):
    """One payload as its reader sees it."""

    @property
    def view(self) -> memoryview:
        """The read-only bytes, where they lie; a copy of what lies in a GPU's memory."""

    @property
    def device(self) -> DeviceArray | None:
        """The bytes where they lie in a GPU's memory, ``(nbytes,) uint8``, never to be written to.

        `None` if they are in the host's. What uses them must be finished before `check`.
        """

    def check(self) -> None:
        """Raise `Miss` if the bytes may have changed since the reading began.

        To be called after the last use of ``view`` and before anything made from it is believed.
        """

    def release(self) -> None:
        """Let the writer use the room again; a second release changes nothing."""
