from __future__ import annotations

from datetime import timedelta

from services.infer.backlog import Backlog

COST = timedelta(milliseconds=10)


def note(backlog: Backlog, queued: int) -> bool:
    return backlog.note("m", queued=queued, engines=2, cost=COST)


def test_the_backlog_is_told_in_powers_of_two() -> None:
    backlog = Backlog()
    assert note(backlog, 20)
    assert backlog.milliseconds == {"m": 64}
    assert not note(backlog, 25)
    assert note(backlog, 26)
    assert backlog.milliseconds == {"m": 128}


def test_a_short_backlog_is_none() -> None:
    backlog = Backlog()
    assert not note(backlog, 6)
    assert backlog.milliseconds == {}


async def test_what_changes_while_it_is_told_is_told_too() -> None:
    backlog = Backlog()
    note(backlog, 20)
    told = []

    async def update(milliseconds: dict[str, int]) -> None:
        told.append(milliseconds)
        note(backlog, 0)

    await backlog.tell(update)
    assert told == [{"m": 64}, {}]
