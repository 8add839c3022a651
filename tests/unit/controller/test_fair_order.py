"""The order of waiting keys: flows in turn, new runs first, and nothing waits for ever."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diht_k8s.controller.queue.fair_order import PATIENCE, FairOrder, PriorityLevel

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
