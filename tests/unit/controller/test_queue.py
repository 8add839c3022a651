"""The queue: a key waits once, is never with two workers, comes back later after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from diht_k8s.controller.queue import KeyedQueue

Story = Callable[[KeyedQueue[str]], Coroutine[None, None, None]]


def run(story: Story) -> None:
    async def inside() -> None:
        await story(KeyedQueue(asyncio.get_running_loop().time))

    asyncio.run(inside())


async def now(queue: KeyedQueue[str]) -> str:
    key, _ = await asyncio.wait_for(queue.get(), 1)
    return key


async def nothing(queue: KeyedQueue[str]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.02)


def test_key_that_is_added_twice_waits_once() -> None:
    async def story(queue: KeyedQueue[str]) -> None:
        queue.add("a")
        queue.add("b")
        queue.add("a")
        assert [await now(queue), await now(queue)] == ["a", "b"]
        await nothing(queue)

    run(story)


def test_key_for_later_comes_after_all_others_until_it_is_asked_for_itself() -> None:
    async def story(queue: KeyedQueue[str]) -> None:
        for key in ("old", "older", "oldest"):
            queue.add(key, later=True)
        queue.add("a")
        queue.add("oldest")
        queue.add("a", later=True)
        assert len(queue) == 4
        assert [await now(queue) for _ in range(4)] == ["a", "oldest", "old", "older"]
        await nothing(queue)

    run(story)


def test_key_that_is_added_while_it_is_worked_on_comes_once_more_after() -> None:
    async def story(queue: KeyedQueue[str]) -> None:
        queue.add("a")
        assert await now(queue) == "a"
        queue.add("a")
        queue.add("a")
        await nothing(queue)
        queue.done("a")
        assert await now(queue) == "a"
        queue.done("a")
        await nothing(queue)

    run(story)


def test_later_key_comes_when_it_is_due_or_sooner_if_asked() -> None:
    async def story(queue: KeyedQueue[str]) -> None:
        queue.add_after("a", 0.03)
        queue.add_after("a", 9)
        queue.add_after("b", 9)
        queue.add_after("b", 0.01)
        assert [await now(queue), await now(queue)] == ["b", "a"]
        queue.add_after("c", 9)
        queue.add("c")
        assert await now(queue) == "c"

    run(story)


def test_failed_key_comes_back_by_itself_and_a_good_reconciliation_resets_the_failures() -> None:
    async def story(queue: KeyedQueue[str]) -> None:
        queue.add("a")
        for _ in range(2):
            assert await now(queue) == "a"
            queue.done("a", failed=True)
            queue.add("a")
        assert queue._failures == {"a": 2}
        assert await now(queue) == "a"
        queue.done("a")
        assert queue._failures == {}
        queue.add("b")
        assert await now(queue) == "b"
        queue.done("b", failed=True)
        assert await now(queue) == "b", "nobody has asked for it"

    run(story)


def test_worker_that_was_cancelled_takes_no_key_with_it() -> None:
    async def story(queue: KeyedQueue[str]) -> None:
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        other = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        assert (await asyncio.wait_for(other, 1))[0] == "a"

    run(story)
