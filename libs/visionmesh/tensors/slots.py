"""The writer's side of a slab: which slots are free, whose turn it is, which leases are over."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections import deque
from datetime import timedelta
from mmap import PAGESIZE
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from visionmesh.errors import Code, ConfigurationError, Reject, Retry
from visionmesh.tensors.free_slots import FreeSlots
from visionmesh.tensors.slab import create_slab, remove_slab

DEFAULT_SLOT_BYTES = 256 << 10

_NEVER = 1 << 63
_FIRST_DELAY = 0.0005
_LAST_DELAY = 0.01
"""Seconds between two looks for room: readers free it in other processes and cannot wake us."""


class SlabSlot:
    """A run of slots with room for one payload."""

    __slots__ = ("_arena", "expires_ns", "first", "generation", "nbytes", "run")

    def __init__(
        self, *, arena: SlabArena[Any], first: int, run: int, generation: int, nbytes: int
    ) -> None:
        self._arena = arena
        self.first = first
        self.run = run
        self.generation = generation
        self.nbytes = nbytes
        self.expires_ns = _NEVER
        """When its lease ends; never, as long as its writer is at work on it."""

    def publish(self) -> None:
        """Make the slot readable, once; from any thread."""
        if self.expires_ns == _NEVER:
            self._arena.publish(self)

    def discard(self) -> None:
        """Give the room back without publishing it; from any thread."""
        self._arena.withdraw(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.expires_ns == _NEVER:
            self.discard()


S = TypeVar("S", bound=SlabSlot)


class SlabArena(ABC, Generic[S]):
    """One process's slab, from which it hands payloads to others on its host.

    ``size`` bytes are cut into slots; a payload takes a contiguous run of them, so large and small
    ones share the arena. A committed payload is freed by its reader, or, once its ``lease`` is
    over, by the arena when it runs out of room; references to it miss from then on. All calls but
    those of a slot's ``commit`` and ``discard`` belong to one thread.

    ``elsewhere`` tells readers where the slots are if not in the slab's own file.
    """

    def __init__(
        self,
        *,
        directory: Path,
        name: str,
        size: int,
        slot_bytes: int = DEFAULT_SLOT_BYTES,
        lease: timedelta,
        elsewhere: bytes = b"",
    ) -> None:
        require_slots(size, slot_bytes)
        self.name = name
        self.reclaimed = 0
        """Payloads whose leases ended before anybody released them, and whose room was needed."""
        self.stalls = 0
        """Times that somebody had to wait for room."""
        self._path = directory / name
        self._slab = create_slab(
            self._path, slots=size // slot_bytes, slot_bytes=slot_bytes, elsewhere=elsewhere
        )
        self._lease_ns = lease // timedelta(microseconds=1) * 1000
        self._free = FreeSlots(self._slab.slots)
        self._taken: deque[S] = deque()
        # An earlier arena of this name must not be mistaken for this one. Random numbers of 52
        # bits leave room to count on and stay exact in any JSON reader.
        self._generation = secrets.randbits(52) + 1
        self._queue = asyncio.Lock()

    @abstractmethod
    def _slot(self, *, first: int, run: int, generation: int, nbytes: int) -> S:
        """Return the slot for a payload of ``nbytes`` that begins at ``first``."""

    @property
    def capacity(self) -> int:
        """Bytes in all slots together."""
        return self._slab.slots * self._slab.slot_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of the slots that are taken; may be asked for by any thread."""
        released = self._slab.released
        taken = (slot.run for slot in tuple(self._taken) if released[slot.first] != slot.generation)
        return sum(taken) * self._slab.slot_bytes

    def reserve(self, nbytes: int) -> S | None:
        """Return room for ``nbytes``, or `None` if there is none now or others wait for it."""
        return None if self._queue.locked() else self._take(nbytes)

    def _take(self, nbytes: int) -> S | None:
        run = max(1, -(-nbytes // self._slab.slot_bytes))
        self._collect_oldest()
        first = self._free.take(run)
        if first is None:
            first = self._make_room(run)
            if first is None:
                return None
        self._generation += 1
        slot = self._slot(first=first, run=run, generation=self._generation, nbytes=nbytes)
        self._taken.append(slot)
        return slot

    async def acquire(self, nbytes: int, *, timeout: timedelta) -> S:  # noqa: ASYNC109 - the limit covers the queue too
        """Return room for ``nbytes``, waiting up to ``timeout`` for it; first come, first served.

        Raises
        ------
        Retry
            If there was no room in time.
        Reject
            If the arena is smaller than that (payload_too_large).
        """
        if nbytes > self.capacity:
            raise Reject(
                Code.PAYLOAD_TOO_LARGE,
                f"{nbytes} bytes do not fit into an arena of {self.capacity}: "
                "send a smaller image, or raise arena_bytes.",
            )
        if (slot := self.reserve(nbytes)) is not None:
            return slot
        self.stalls += 1
        try:
            async with asyncio.timeout(timeout.total_seconds()), self._queue:
                return await self._wait(nbytes)
        except TimeoutError as error:
            raise Retry(
                f"The arena {self.name} had no room for {nbytes} bytes within {timeout}.",
                code=Code.MESH_FULL,
            ) from error

    async def _wait(self, nbytes: int) -> S:
        delay = _FIRST_DELAY
        while (slot := self._take(nbytes)) is None:
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_DELAY)
        return slot

    def publish(self, slot: SlabSlot) -> None:
        """Make ``slot`` readable; its generation is stored last."""
        slab, first = self._slab, slot.first
        slab.lengths[first] = slot.nbytes
        slab.leases[first] = expires_ns = time.monotonic_ns() + self._lease_ns
        slab.generations[first] = slot.generation
        slot.expires_ns = expires_ns

    def withdraw(self, slot: SlabSlot) -> None:
        """Free ``slot`` as a reader would; if a late release hides this, the lease is over too."""
        slot.expires_ns = 0
        self._slab.released[slot.first] = slot.generation

    def _collect_oldest(self) -> None:
        """Free what was released, oldest first: cheap, and low slots are used again while warm."""
        taken, released = self._taken, self._slab.released
        while taken and released[taken[0].first] == taken[0].generation:
            self._release(taken.popleft())

    def _collect(self) -> None:
        """Free all that was released."""
        kept: deque[S] = deque()
        for slot in self._taken:
            if self._slab.released[slot.first] == slot.generation:
                self._release(slot)
            else:
                kept.append(slot)
        self._taken = kept

    def _make_room(self, run: int) -> int | None:
        """Take what was released out of order, then end leases that are over, oldest first."""
        self._collect()
        first = self._free.take(run)
        now = time.monotonic_ns()
        for slot in list(self._taken) if first is None else ():
            if slot.expires_ns <= now:
                self.reclaimed += 1
                self._taken.remove(slot)
                self._release(slot)
                first = self._free.take(run)
                if first is not None:
                    break
        return first

    def _release(self, slot: SlabSlot) -> None:
        # Before anybody writes there again: a reader that is still at it must see it.
        self._slab.generations[slot.first] = 0
        self._free.give(slot.first, slot.run)

    def close(self) -> None:
        """Remove the slab; what readers have mapped stays readable to them until they let go."""
        remove_slab(self._path, self._slab)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_slots(size: int, slot_bytes: int) -> None:
    """Raise `ConfigurationError` if ``size`` bytes in slots of ``slot_bytes`` make no arena."""
    if slot_bytes < 1 or slot_bytes % PAGESIZE or size < slot_bytes:
        raise ConfigurationError(
            Code.SETTINGS_INVALID,
            f"An arena wants slots of whole pages ({PAGESIZE} bytes) and room for one of them.",
        )
