"""Who is next, whatever comes in which order."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.infer.queue import OVERTAKERS, Queue

steps = st.lists(st.sampled_from(["urgent", "other", "take"]), max_size=60)


def queue_of(urgent: int, others: int) -> Queue[str]:
    queue: Queue[str] = Queue()
    for number in range(others):
        queue.put(f"other {number}", urgent=False)
    for number in range(urgent):
        queue.put(f"urgent {number}", urgent=True)
    return queue


def test_the_urgent_come_first_each_line_in_its_order() -> None:
    queue = queue_of(urgent=2, others=2)
    assert queue.heads == ["urgent 0", "other 0"]
    assert [queue.take() for _ in range(4)] == ["urgent 0", "urgent 1", "other 0", "other 1"]
    assert (len(queue), queue.heads) == (0, [])
    with pytest.raises(IndexError):
        queue.take()


def test_a_flood_of_urgent_ones_leaves_the_others_their_part() -> None:
    queue = queue_of(urgent=100, others=3)
    taken = [queue.take() for _ in range(3 * (OVERTAKERS + 1))]
    others = [place for place, item in enumerate(taken) if item.startswith("other")]
    assert others == [OVERTAKERS, 2 * OVERTAKERS + 1, 3 * OVERTAKERS + 2]


def test_who_passed_nobody_does_not_count() -> None:
    queue = queue_of(urgent=OVERTAKERS, others=0)
    for _ in range(OVERTAKERS):
        queue.take()
    queue.put("other", urgent=False)
    queue.put("urgent", urgent=True)
    assert queue.take() == "urgent"


@given(steps)
def test_nothing_is_lost_and_nobody_is_passed_too_often(steps: list[str]) -> None:
    queue: Queue[int] = Queue()
    lines: dict[str, deque[int]] = {"urgent": deque(), "other": deque()}
    passed = 0
    for number, step in enumerate(steps):
        if step != "take":
            queue.put(number, urgent=step == "urgent")
            lines[step].append(number)
        elif len(queue):
            taken = queue.take()
            line = next(line for line in lines.values() if line and line[0] == taken)
            line.popleft()
            passed = passed + 1 if line is lines["urgent"] and lines["other"] else 0
            assert passed <= OVERTAKERS
    assert list(queue) == [*lines["urgent"], *lines["other"]]
    queue.keep(lambda number: number % 2 == 0)
    assert list(queue) == [n for line in lines.values() for n in line if n % 2 == 0]
    queue.clear()
    assert len(queue) == 0
