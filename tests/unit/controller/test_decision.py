"""Decisions: equal for equal observations, and what a blocked run does next."""

from __future__ import annotations

import copy

import pytest

from diht_k8s.api.reasons import Reason
from diht_k8s.controller.decision import Blocked, decide
from diht_k8s.controller.observe import RunProblem
from tests.unit.controller.stories import Clock, gang, training

QUOTA = RunProblem(Reason.QUOTA_EXCEEDED, "exceeded quota")
REFUSED = RunProblem(Reason.INVALID_SPEC, "unknown field", until_changed=True)


@pytest.mark.parametrize(
    ("problems", "waits"),
    [
        ([QUOTA] * 7, [1, 2, 4, 8, 16, 30, 30]),
        ([QUOTA, QUOTA, None, QUOTA], [1, 2, None, 1]),
        ([REFUSED, REFUSED], [None, None]),
    ],
    ids=["again and again", "after it has gone", "until the document changes"],
)
def test_blocked_run_is_tried_again_after_a_wait_that_grows(
    problems: list[RunProblem | None], waits: list[float | None]
) -> None:
    blocked, found = Blocked(), list[float | None]()
    for problem in problems:
        blocked = blocked.next(problem, 1)
        found.append(blocked.try_again_s)
    assert found == waits


@pytest.mark.parametrize(
    ("problem", "generation", "refused"), [(REFUSED, 1, True), (REFUSED, 2, False), (QUOTA, 1, False), (None, 1, False)]
)
def test_only_the_document_that_was_refused_is_not_sent_again(
    problem: RunProblem | None, generation: int, refused: bool
) -> None:
    assert (Blocked().next(problem, 1).refusal(generation) is not None) == refused


@pytest.mark.parametrize("story", [gang, training])
def test_equal_observations_are_decided_alike_and_stay_as_they_are(story: type) -> None:
    _, process, clock = story()
    assert isinstance(clock, Clock)
    process.sync()
    cached = process.runs.get(("n", "r"))
    assert cached is not None
    memory = process.reconciler._memories["n", "r"]
    seen = process.reconciler._observer.observe(
        cached, cached.parsed(), memory.objects, memory.logs, memory.pending, now=clock.now, interval_s=10.0
    )
    before = copy.deepcopy(seen)
    assert decide(seen, Blocked(), None, 0.5) == decide(seen, Blocked(), None, 0.5)
    assert seen == before
