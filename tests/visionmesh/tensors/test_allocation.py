"""Any sequence of calls leaves an arena that overlaps nothing, loses nothing and never lies."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from visionmesh.contracts import ShmLocation
from visionmesh.errors import Miss
from visionmesh.tensors import ShmArena, ShmReader, ShmReading, ShmSlot

SHM = Path("/dev/shm")
SLOT = 4096
SLOTS = 12


@dataclass
class Written:
    slot: ShmSlot
    pattern: bytes
    location: ShmLocation | None = None
    reading: ShmReading | None = None

    @property
    def covers(self) -> set[int]:
        return set(range(self.slot.first, self.slot.first + self.slot.run))


class ArenaMachine(RuleBasedStateMachine):
    """An arena beside a plain account of what should lie where."""

    @initialize(over_at_once=st.booleans())
    def open(self, over_at_once: bool) -> None:
        self.lease = timedelta(0) if over_at_once else timedelta(hours=1)
        self.arena = ShmArena(
            directory=SHM,
            name=f"visionmesh-test-{uuid.uuid4().hex}",
            size=SLOTS * SLOT,
            slot_bytes=SLOT,
            lease=self.lease,
        )
        self.reader = ShmReader(directory=SHM)
        self.live: list[Written] = []
        self.stale: list[Written] = []
        self.count = 0

    def teardown(self) -> None:
        if hasattr(self, "arena"):
            self.arena.close()

    def _may_be_reclaimed(self, written: Written) -> bool:
        return written.location is not None and self.lease == timedelta(0)

    def _fits(self, run: int, taken: list[Written]) -> bool:
        used: set[int] = set().union(*(written.covers for written in taken))
        return any(used.isdisjoint(range(i, i + run)) for i in range(SLOTS - run + 1))

    @rule(nbytes=st.integers(0, SLOTS * SLOT))
    def reserve(self, nbytes: int) -> None:
        run = max(1, -(-nbytes // SLOT))
        before = self.arena.reclaimed
        fitted = self._fits(run, self.live)
        slot = self.arena.reserve(nbytes)
        for written in [w for w in self.live if w.location is not None and not self._readable(w)]:
            assert self._may_be_reclaimed(written)
            self.live.remove(written)
            self.stale.append(written)
            before += 1
        assert self.arena.reclaimed == before
        assert not fitted or slot is not None
        if slot is None:
            assert not self._fits(run, [w for w in self.live if not self._may_be_reclaimed(w)])
            return
        self.count += 1
        assert len(slot.view) == nbytes
        slot.view[:] = pattern = (self.count.to_bytes(4, "little") * (nbytes // 4 + 1))[:nbytes]
        self.live.append(Written(slot, pattern))

    def _readable(self, written: Written) -> bool:
        assert written.location is not None
        try:
            self.reader.read(written.location)
        except Miss:
            return False
        return True

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        written = data.draw(st.sampled_from(self.live))
        written.location = written.slot.commit()
        written.reading = self.reader.read(written.location)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        written = data.draw(st.sampled_from(self.live))
        written.slot.discard()
        self.live.remove(written)
        self.stale.append(written)

    @precondition(lambda self: any(written.reading for written in self.live))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        written = data.draw(st.sampled_from([w for w in self.live if w.reading]))
        assert written.reading is not None
        written.reading.release()
        self.live.remove(written)
        self.stale.append(written)

    @precondition(lambda self: any(written.reading for written in self.stale))
    @rule(data=st.data())
    def release_again(self, data: st.DataObject) -> None:
        written = data.draw(st.sampled_from([w for w in self.stale if w.reading]))
        assert written.reading is not None
        written.reading.release()

    @invariant()
    def nothing_overlaps_and_nothing_is_lost(self) -> None:
        runs = [written.slot.run for written in self.live]
        assert len(set().union(*(written.covers for written in self.live))) == sum(runs)
        assert self.arena.used_bytes == sum(runs) * SLOT

    @invariant()
    def what_lives_is_as_it_was_written(self) -> None:
        for written in self.live:
            assert bytes(written.slot.view) == written.pattern
            if written.location is not None:
                reading = self.reader.read(written.location)
                assert bytes(reading.view) == written.pattern
                reading.check()

    @invariant()
    def what_is_stale_misses(self) -> None:
        for written in self.stale:
            location = written.location or ShmLocation(
                arena=self.arena.name,
                slot=written.slot.first,
                generation=written.slot.generation,
                length=len(written.slot.view),
            )
            with pytest.raises(Miss):
                self.reader.read(location)


TestArena = ArenaMachine.TestCase
TestArena.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
