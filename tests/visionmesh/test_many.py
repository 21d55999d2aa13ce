"""Many calls at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from tests.polling import until
from visionmesh.many import call_many


class Calls:
    """Calls that end when a test says so."""

    def __init__(self) -> None:
        self.under_way = 0
        self.most = 0
        self.ends: dict[int, asyncio.Future[None]] = {}

    async def call(self, number: int, item: str) -> str:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.ends[number] = asyncio.get_running_loop().create_future()
        try:
            await self.ends[number]
        finally:
            self.under_way -= 1
        return f"{item}{number}"

    async def begun(self, number: int) -> asyncio.Future[None]:
        async def future() -> asyncio.Future[None] | None:
            return self.ends.get(number)

        return await until(future)


async def test_answers_come_in_the_order_of_the_items() -> None:
    calls = Calls()
    async with aclosing(call_many(calls.call, "abcd", at_once=2, ordered=True)) as answers:
        coming = asyncio.create_task(anext(answers))
        (await calls.begun(1)).set_result(None)
        (await calls.begun(0)).set_result(None)
        assert await coming == "a0"
        assert await anext(answers) == "b1"
        for number in (2, 3):
            coming = asyncio.create_task(anext(answers))
            (await calls.begun(number)).set_result(None)
            assert await coming == f"{'abcd'[number]}{number}"
        with pytest.raises(StopAsyncIteration):
            await anext(answers)
    assert calls.most == 2


async def test_or_each_as_it_comes() -> None:
    calls = Calls()
    async with aclosing(call_many(calls.call, ["a", "b"], at_once=2, ordered=False)) as answers:
        coming = asyncio.create_task(anext(answers))
        (await calls.begun(1)).set_result(None)
        assert await coming == "b1"
        (await calls.begun(0)).set_result(None)
        assert await anext(answers) == "a0"


async def test_an_answer_does_not_wait_for_the_next_item() -> None:
    more = asyncio.Event()

    async def items() -> AsyncIterator[str]:
        yield "a"
        await more.wait()
        yield "b"

    calls = Calls()
    async with aclosing(call_many(calls.call, items(), at_once=8, ordered=True)) as answers:
        coming = asyncio.create_task(anext(answers))
        (await calls.begun(0)).set_result(None)
        assert await coming == "a0"
        more.set()
        coming = asyncio.create_task(anext(answers))
        (await calls.begun(1)).set_result(None)
        assert await coming == "b1"


async def test_takes_no_more_of_an_endless_iterator_than_goes_on() -> None:
    taken: list[int] = []

    def items() -> Iterator[str]:
        while True:
            assert threading.current_thread() is not threading.main_thread()
            taken.append(len(taken))
            yield "x"

    calls = Calls()
    async with aclosing(call_many(calls.call, items(), at_once=3, ordered=True)) as answers:
        coming = asyncio.create_task(anext(answers))
        (await calls.begun(0)).set_result(None)
        await coming
        coming = asyncio.create_task(anext(answers))
        (await calls.begun(1)).set_result(None)
        await coming
    assert calls.most <= 3
    assert len(taken) <= 5
    assert calls.under_way == 0


async def test_the_first_error_ends_all() -> None:
    calls = Calls()
    async with aclosing(call_many(calls.call, "abc", at_once=3, ordered=False)) as answers:
        coming = asyncio.create_task(anext(answers))
        (await calls.begun(1)).set_exception(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await coming
    assert calls.under_way == 0


async def test_an_error_of_the_iterator_is_raised() -> None:
    def items() -> Iterator[str]:
        yield "a"
        raise LookupError("gone")

    calls = Calls()
    async with aclosing(call_many(calls.call, items(), at_once=3, ordered=True)) as answers:
        with pytest.raises(LookupError, match="gone"):
            await anext(answers)
    assert calls.under_way == 0


async def test_needs_room_for_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await anext(call_many(Calls().call, "a", at_once=0, ordered=True))
