"""The queue: a key waits once, is never with two workers, comes back later after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diht_k8s.controller.queue.fair_order import PriorityLevel
from diht_k8s.controller.queue.work_queue import WorkQueue

KEYS = ("a1", "a2", "b1", "c1")
Story = Callable[[WorkQueue[str]], Coroutine[None, None, None]]


def run(story: Story, levels: Mapping[str, PriorityLevel] | None = None) -> None:
    """Run a story; a key's flow is its first letter."""

    def level(key: str) -> PriorityLevel:
        return (levels or {}).get(key, PriorityLevel.CHANGED)

    async def inside() -> None:
        await story(WorkQueue(asyncio.get_running_loop().time, lambda key: key[0], level))

    asyncio.run(inside())


async def now(queue: WorkQueue[str]) -> str:
    key, _ = await asyncio.wait_for(queue.get(), 1)
    return key


async def nothing(queue: WorkQueue[str]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.02)


def test_key_that_is_added_twice_waits_once() -> None:
    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        queue.add("b")
        queue.add("a")
        assert [await now(queue), await now(queue)] == ["a", "b"]
        await nothing(queue)

    run(story)


def test_key_of_a_low_level_comes_after_all_others_until_it_is_asked_for_itself() -> None:
    levels: dict[str, PriorityLevel] = {key: PriorityLevel.ENDED for key in ("old", "older", "oldest")}

    async def story(queue: WorkQueue[str]) -> None:
        for key in ("old", "older", "oldest"):
            queue.add(key)
        queue.add("a")
        levels["oldest"] = PriorityLevel.CHANGED
        queue.add("oldest")
        levels["a"] = PriorityLevel.ENDED
        queue.add("a")
        assert len(queue) == 4
        assert [await now(queue) for _ in range(4)] == ["a", "oldest", "old", "older"]
        await nothing(queue)

    run(story, levels)


def test_flows_take_turns() -> None:
    async def story(queue: WorkQueue[str]) -> None:
        for key in ("a1", "a2", "a3", "b1"):
            queue.add(key)
        assert [await now(queue) for _ in range(4)] == ["a1", "b1", "a2", "a3"]

    run(story)


@pytest.mark.parametrize("is_busy", [False, True])
def test_wait_is_counted_from_the_first_time_that_the_key_was_asked_for(is_busy: bool) -> None:
    async def story(queue: WorkQueue[str]) -> None:
        if is_busy:
            queue.add("a")
            assert await now(queue) == "a"
        queue.add("a")
        asked = asyncio.get_running_loop().time()
        await asyncio.sleep(0.02)
        queue.add("a")
        await asyncio.sleep(0.02)
        queue.done("a")
        assert (await queue.get())[1] <= asked

    run(story)


@given(
    st.lists(st.tuples(st.sampled_from(["add", "get", "done", "fail", "after"]), st.sampled_from(KEYS)), max_size=80)
)
def test_any_story_gives_no_key_to_two_workers_and_loses_none(steps: list[tuple[str, str]]) -> None:
    async def story(queue: WorkQueue[str]) -> None:
        busy: set[str] = set()
        owed: set[str] = set()
        for what, key in steps:
            if what == "add":
                queue.add(key)
                owed.add(key)
            elif what == "get" and owed - busy:
                got = await now(queue)
                assert got in owed
                assert got not in busy
                busy.add(got)
                owed.discard(got)
            elif what in ("done", "fail") and key in busy:
                queue.done(key, failed=what == "fail")
                busy.discard(key)
            elif what == "after":
                queue.add_after(key, 60.0)
            assert len(queue) == len(owed)
        for key in sorted(busy):
            queue.done(key)
        left = [await now(queue) for _ in range(len(queue))]
        assert sorted(left) == sorted(owed)

    run(story)


def test_key_that_is_added_while_it_is_worked_on_comes_once_more_after() -> None:
    async def story(queue: WorkQueue[str]) -> None:
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
    async def story(queue: WorkQueue[str]) -> None:
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
    async def story(queue: WorkQueue[str]) -> None:
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
    async def story(queue: WorkQueue[str]) -> None:
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        other = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        assert (await asyncio.wait_for(other, 1))[0] == "a"

    run(story)
