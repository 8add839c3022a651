"""The queue: a key waits once, is never with two workers, comes back later after a failure."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diht_k8s.controller.work_queue import PATIENCE, FairOrder, PriorityLevel, WorkQueue

Key = tuple[str, int]
"""Flow and number."""
FLOWS = "abcd"


def order_of(*keys: tuple[str, int, PriorityLevel]) -> FairOrder[Key]:
    found: FairOrder[Key] = FairOrder()
    for number, (flow, name, level) in enumerate(keys):
        found.add((flow, name), flow, level, float(number))
    return found


def popped(order: FairOrder[Key], count: int | None = None) -> list[Key]:
    return [order.pop()[0] for _ in range(len(order) if count is None else count)]


def flood(flow: str, level: PriorityLevel, count: int = 1000) -> Iterable[tuple[str, int, PriorityLevel]]:
    return ((flow, number, level) for number in range(count))


@pytest.mark.parametrize("level", PriorityLevel)
def test_flood_of_a_flow_delays_a_key_of_another_by_one_turn(level: PriorityLevel) -> None:
    order = order_of(*flood("a", level), ("b", 0, level))
    assert popped(order, 2) == [("a", 0), ("b", 0)]


def test_flows_take_turns_and_the_keys_of_a_flow_come_in_their_order() -> None:
    changed = PriorityLevel.CHANGED
    order = order_of(*flood("a", changed, 3), *flood("b", changed, 1), *flood("c", changed, 2))
    assert popped(order) == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("a", 2)]


def test_flow_that_was_empty_waits_for_its_turn_again() -> None:
    order = order_of(
        *flood("a", PriorityLevel.CHANGED, 3), ("b", 0, PriorityLevel.CHANGED), ("c", 0, PriorityLevel.CHANGED)
    )
    assert popped(order, 2) == [("a", 0), ("b", 0)]
    order.add(("b", 1), "b", PriorityLevel.CHANGED, 9.0)
    assert popped(order) == [("c", 0), ("a", 1), ("b", 1), ("a", 2)]


def test_new_run_comes_before_what_waits_in_its_own_namespace_and_in_others() -> None:
    order = order_of(
        *flood("a", PriorityLevel.CHANGED), *flood("b", PriorityLevel.CHANGED), ("b", -1, PriorityLevel.NEW)
    )
    assert popped(order, 1) == [("b", -1)]


@pytest.mark.parametrize(("level", "within"), [(PriorityLevel.CHANGED, 2), (PriorityLevel.ENDED, 17)])
def test_flood_of_new_runs_does_not_starve_lower_levels(level: PriorityLevel, within: int) -> None:
    order = order_of(*flood("a", PriorityLevel.NEW), *flood("b", PriorityLevel.CHANGED), ("c", 0, level))
    taken = popped(order, within + 1)
    assert ("c", 0) in taken if level is PriorityLevel.ENDED else ("b", 0) in taken[:within]


@pytest.mark.parametrize("level", [PriorityLevel.CHANGED, PriorityLevel.ENDED])
def test_waiting_level_gets_its_share_of_turns(level: PriorityLevel) -> None:
    order = order_of(*flood("a", PriorityLevel.NEW), *flood("b", level))
    share = 1 / (PATIENCE[level] + 1)
    assert sum(flow == "b" for flow, _ in popped(order, 320)) == 320 * share


@pytest.mark.parametrize("level", [PriorityLevel.CHANGED, PriorityLevel.ENDED])
def test_level_gathers_no_turns_while_nothing_of_it_waits(level: PriorityLevel) -> None:
    order = order_of(*flood("a", PriorityLevel.NEW))
    popped(order, 100)
    order.add(("b", 0), "b", level, 0.0)
    assert ("b", 0) not in popped(order, PATIENCE[level])


def test_ended_runs_wait_for_a_short_queue_to_empty() -> None:
    order = order_of(*flood("a", PriorityLevel.ENDED, 5), ("b", 7, PriorityLevel.CHANGED))
    assert popped(order, 1) == [("b", 7)]


def test_key_waits_once_keeps_its_time_and_rises_but_does_not_sink() -> None:
    order = order_of(("a", 0, PriorityLevel.ENDED), ("a", 1, PriorityLevel.CHANGED), ("a", 2, PriorityLevel.CHANGED))
    order.add(("a", 0), "a", PriorityLevel.NEW, 9.0)
    order.add(("a", 0), "a", PriorityLevel.ENDED, 10.0)
    order.add(("a", 1), "a", PriorityLevel.CHANGED, 11.0)
    assert len(order) == 3
    assert [order.pop() for _ in range(3)] == [(("a", 0), 0.0), (("a", 1), 1.0), (("a", 2), 2.0)]
    with pytest.raises(IndexError):
        order.pop()


adds = st.tuples(st.sampled_from(FLOWS), st.integers(0, 5), st.sampled_from(list(PriorityLevel)))


@given(st.lists(st.one_of(adds, st.none()), max_size=120))
def test_any_story_loses_and_doubles_nothing(story: list[tuple[str, int, PriorityLevel] | None]) -> None:
    """A None takes a key, a tuple adds one."""
    order: FairOrder[Key] = FairOrder()
    since: dict[Key, float] = {}
    for number, step in enumerate([*story, *([None] * len(FLOWS) * 6)]):
        if step is not None:
            flow, name, level = step
            order.add((flow, name), flow, level, float(number))
            since.setdefault((flow, name), float(number))
        elif since:
            key, began = order.pop()
            assert began == since.pop(key)
        assert len(order) == len(since)
    assert not since


@given(
    st.sampled_from(list(PriorityLevel)),
    st.integers(0, 3),
    st.sets(st.tuples(st.sampled_from(FLOWS), st.sampled_from(list(PriorityLevel)))),
)
def test_any_flood_delays_a_key_by_a_bounded_number_of_turns(
    level: PriorityLevel, ahead: int, floods: set[tuple[str, PriorityLevel]]
) -> None:
    """Each flood, and the key's own flow behind it, always has more keys; their levels have their shares of the
    turns.
    """
    before = ((flow, -1 - each, each) for flow, each in sorted(floods))
    order = order_of(*before, *(("z", number, level) for number in range(ahead + 1)))
    shares = {PriorityLevel.NEW: 3, PriorityLevel.CHANGED: 3, PriorityLevel.ENDED: PATIENCE[PriorityLevel.ENDED] + 2}
    rivals = sum(each is level for _, each in floods)
    for turn in range((ahead + 1) * (rivals + 1) * shares[level]):
        for flow, each in (*floods, ("z", level)):
            order.add((flow, 100 + 10 * turn + each), flow, each, 0.0)
        if order.pop()[0] == ("z", ahead):
            return
    pytest.fail("it still waits")


KEYS = ("a1", "a2", "b1", "c1")


def queue_of(levels: Mapping[str, PriorityLevel] | None = None) -> WorkQueue[str]:
    """A queue in which a key's flow is its first letter."""
    return WorkQueue(lambda key: key[0], lambda key: (levels or {}).get(key, PriorityLevel.CHANGED))


def now(queue: WorkQueue[str]) -> str:
    item = queue.get(60.0)
    assert item is not None
    return item[0]


def nothing(queue: WorkQueue[str]) -> bool:
    return queue.get(0.02) is None


def test_key_that_is_added_twice_waits_once() -> None:
    queue = queue_of()
    queue.add("a")
    queue.add("b")
    queue.add("a")
    assert [now(queue), now(queue)] == ["a", "b"]
    assert nothing(queue)


def test_key_of_a_low_level_comes_after_all_others_until_it_is_asked_for_itself() -> None:
    levels: dict[str, PriorityLevel] = {key: PriorityLevel.ENDED for key in ("old", "older", "oldest")}
    queue = queue_of(levels)
    for key in ("old", "older", "oldest"):
        queue.add(key)
    queue.add("a")
    levels["oldest"] = PriorityLevel.CHANGED
    queue.add("oldest")
    levels["a"] = PriorityLevel.ENDED
    queue.add("a")
    assert len(queue) == 4
    assert [now(queue) for _ in range(4)] == ["a", "oldest", "old", "older"]
    assert nothing(queue)


def test_flows_take_turns() -> None:
    queue = queue_of()
    for key in ("a1", "a2", "a3", "b1"):
        queue.add(key)
    assert [now(queue) for _ in range(4)] == ["a1", "b1", "a2", "a3"]


@pytest.mark.parametrize("is_busy", [False, True])
def test_wait_is_counted_from_the_first_time_that_the_key_was_asked_for(is_busy: bool) -> None:
    queue = queue_of()
    if is_busy:
        queue.add("a")
        assert now(queue) == "a"
    queue.add("a")
    asked = time.monotonic()
    time.sleep(0.02)
    queue.add("a")
    time.sleep(0.02)
    queue.done("a")
    item = queue.get(60.0)
    assert item is not None
    assert item[1] <= asked


@given(
    st.lists(st.tuples(st.sampled_from(["add", "get", "done", "fail", "after"]), st.sampled_from(KEYS)), max_size=80)
)
def test_any_story_gives_no_key_to_two_workers_and_loses_none(steps: list[tuple[str, str]]) -> None:
    queue, busy, owed = queue_of(), set[str](), set[str]()
    for what, key in steps:
        if what == "add":
            queue.add(key)
            owed.add(key)
        elif what == "get" and owed - busy:
            got = now(queue)
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
    left = [now(queue) for _ in range(len(queue))]
    assert sorted(left) == sorted(owed)


def test_many_workers_share_keys_without_losing_any_or_working_on_one_twice_at_a_time() -> None:
    queue, lock = queue_of(), threading.Lock()
    busy, twice = set[str](), list[str]()
    seen, wanted = Counter[str](), Counter[str]()

    def work() -> None:
        while (item := queue.get()) is not None:
            key, _ = item
            with lock:
                twice.extend([key] * (key in busy))
                busy.add(key)
                seen[key] = wanted[key]  # everything that was asked for before it was taken
            time.sleep(random.random() / 2000)
            with lock:
                busy.discard(key)
            queue.done(key, failed=random.random() < 0.1)

    def ask() -> None:
        for _ in range(300):
            key = random.choice(KEYS)
            with lock:
                wanted[key] += 1
            queue.add(key) if random.random() < 0.7 else queue.add_after(key, random.random() / 500)

    workers = [threading.Thread(target=work) for _ in range(4)]
    askers = [threading.Thread(target=ask) for _ in range(4)]
    for each in (*workers, *askers):
        each.start()
    for each in askers:
        each.join()
    until = time.monotonic() + 60
    while seen != wanted and time.monotonic() < until:
        time.sleep(0.01)
    queue.close()
    for each in workers:
        each.join()
    assert (twice, seen) == ([], wanted)


def test_key_that_is_added_while_it_is_worked_on_comes_once_more_after() -> None:
    queue = queue_of()
    queue.add("a")
    assert now(queue) == "a"
    queue.add("a")
    queue.add("a")
    assert nothing(queue)
    queue.done("a")
    assert now(queue) == "a"
    queue.done("a")
    assert nothing(queue)


def test_later_key_comes_when_it_is_due_or_sooner_if_asked() -> None:
    queue = queue_of()
    queue.add_after("a", 0.5)
    queue.add_after("a", 9)
    queue.add_after("b", 9)
    queue.add_after("b", 0.01)
    assert [now(queue), now(queue)] == ["b", "a"]
    queue.add_after("c", 9)
    queue.add("c")
    assert now(queue) == "c"
    queue.done("c")
    assert nothing(queue)


def test_waiting_worker_learns_of_a_sooner_time_and_of_the_end() -> None:
    queue, found = queue_of(), list[object]()
    waiting = threading.Thread(target=lambda: found.extend([queue.get(), queue.get()]))
    queue.add_after("a", 90)
    waiting.start()
    time.sleep(0.02)
    queue.add_after("b", 0.01)
    until = time.monotonic() + 60
    while not queue._busy and time.monotonic() < until:
        time.sleep(0.005)
    queue.close()
    waiting.join(60)
    assert not waiting.is_alive()
    assert [item[0] if isinstance(item, tuple) else item for item in found] == ["b", None]
    queue.add("c")
    assert queue.get() is None, "it is closed"


def test_failed_key_comes_back_by_itself_and_a_good_reconciliation_resets_the_failures() -> None:
    queue = queue_of()
    queue.add("a")
    for _ in range(2):
        assert now(queue) == "a"
        queue.done("a", failed=True)
        queue.add("a")
    assert (queue.failing(2), queue.failing(3)) == (1, 0)
    assert now(queue) == "a"
    queue.done("a")
    assert queue.failing(1) == 0
    queue.add("b")
    assert now(queue) == "b"
    queue.done("b", failed=True)
    assert now(queue) == "b", "nobody has asked for it"


def test_timers_of_keys_that_were_asked_for_sooner_are_dropped() -> None:
    """A run whose deadline is a month away is reconciled at each change, and each time asks to come back then."""
    queue = queue_of()
    queue.add_after("late", 5)
    for _ in range(1000):
        queue.add_after("a", 3600.0)
        queue.add("a")
        assert now(queue) == "a"
        queue.done("a")
    assert len(queue._timers) < 100
    item = queue.get(60)
    assert item is not None
    assert item[0] == "late"
