"""Items that come together are processed together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from visionmesh.coalescer import Coalescer


class Squares:
    """Squares numbers when it is let; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.allowed = asyncio.Event()
        self.allowed.set()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.allowed.wait()
        if -1 in items:
            raise ValueError("no negative numbers")
        return [item * item for item in items]


@pytest.fixture
def squares() -> Squares:
    return Squares()


async def begun(squares: Squares, batches: int) -> None:
    async with asyncio.timeout(5):
        while len(squares.batches) < batches:  # noqa: ASYNC110 - a list tells nobody when it grows
            await asyncio.sleep(0)


async def test_what_comes_in_one_turn_is_one_batch(squares: Squares) -> None:
    coalescer = Coalescer(process=squares, max_items=10)
    assert await asyncio.gather(*map(coalescer.submit, range(5))) == [0, 1, 4, 9, 16]
    assert squares.batches == [[0, 1, 2, 3, 4]]


async def test_a_single_item_does_not_wait_for_others(squares: Squares) -> None:
    assert await Coalescer(process=squares, max_items=10).submit(3) == 9


async def test_batches_are_bounded_and_keep_the_order(squares: Squares) -> None:
    coalescer = Coalescer(process=squares, max_items=2)
    await asyncio.gather(*map(coalescer.submit, range(5)))
    assert squares.batches == [[0, 1], [2, 3], [4]]


async def test_what_comes_during_a_batch_makes_up_the_next(squares: Squares) -> None:
    squares.allowed.clear()
    coalescer = Coalescer(process=squares, max_items=10)
    first = coalescer.submit(1)
    await begun(squares, 1)
    second, third = coalescer.submit(2), coalescer.submit(3)
    assert coalescer.waiting == 2
    squares.allowed.set()
    assert [await first, await second, await third] == [1, 4, 9]
    assert squares.batches == [[1], [2, 3]]


async def test_as_many_batches_as_allowed_run_at_once(squares: Squares) -> None:
    squares.allowed.clear()
    coalescer = Coalescer(process=squares, max_items=1, in_flight=2)
    futures = [coalescer.submit(item) for item in range(3)]
    await begun(squares, 2)
    assert squares.batches == [[0], [1]]
    squares.allowed.set()
    assert [await future for future in futures] == [0, 1, 4]


async def test_an_error_goes_to_each_submitter_of_its_batch_only(squares: Squares) -> None:
    coalescer = Coalescer(process=squares, max_items=2)
    outcomes = await asyncio.gather(*map(coalescer.submit, [1, -1, 3]), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError, ValueError, int]


async def test_an_item_cancelled_before_its_batch_is_left_out(squares: Squares) -> None:
    coalescer = Coalescer(process=squares, max_items=10)
    first, second = coalescer.submit(1), coalescer.submit(2)
    first.cancel()
    assert await second == 4
    assert squares.batches == [[2]]


async def test_a_submitter_cancelled_later_disturbs_nobody(squares: Squares) -> None:
    squares.allowed.clear()
    coalescer = Coalescer(process=squares, max_items=10)
    first, second = coalescer.submit(1), coalescer.submit(2)
    await begun(squares, 1)
    first.cancel()
    squares.allowed.set()
    assert await second == 4
    assert await coalescer.submit(5) == 25


async def test_closing_finishes_what_was_submitted_and_takes_no_more(squares: Squares) -> None:
    coalescer = Coalescer(process=squares, max_items=1)
    futures = [coalescer.submit(item) for item in range(3)]
    await coalescer.close()
    assert [future.result() for future in futures] == [0, 1, 4]
    with pytest.raises(RuntimeError):
        coalescer.submit(4)


async def test_a_missing_result_is_an_error_for_all() -> None:
    async def forgetful(items: Sequence[int]) -> list[int]:
        return list(items)[1:]

    coalescer = Coalescer(process=forgetful, max_items=10)
    outcomes = await asyncio.gather(*map(coalescer.submit, [1, 2]), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RuntimeError, RuntimeError]
