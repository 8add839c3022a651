"""The operator dies at its first, second ... write in each of its lives: every story ends as it does without."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from diht_k8s.api.reports import COMMITTED, Cause
from diht_k8s.controller.saved_status import saved_run_status
from diht_k8s.pipeline.run_status import RunState
from tests.unit.controller.elastic import grouped, min_count, shrunk, told
from tests.unit.controller.elastic_in_place import decided, lose, replace, trains
from tests.unit.controller.elastic_queue import EVERY_S, whole
from tests.unit.controller.fake import Dead, Process
from tests.unit.controller.kueue import PODS, Kueue
from tests.unit.controller.stories import ORDER, Clock, live_until_a_write, make, play, status

LEFT = Cause(exit_code=75, reason="ComputedElsewhere", message="computed by run b: start again").encoded()
FREE = Cause(exit_code=0, reason="Completed", message="", output="s3://corpus/run/train/0").encoded()
DONE = Cause(exit_code=0, reason=COMMITTED, message="", output="s3://corpus/run/train/0").encoded()


def run_of_all_stages(
    ends: dict[str, int], more: list[str], restarts: dict[str, int], state: RunState = RunState.COMPLETE
) -> Callable[[int | None], None]:
    """A run whose Jobs end so; `more`: which of them there are beyond the first attempts."""

    def story(die_after: int | None) -> None:
        cluster = make(failurePolicy={"maxRestarts": 2})
        jobs = [*more] if state is RunState.FAILED else [*ORDER, *more]
        # a third failed attempt leaves the first Job without use: its logs are old, so it is removed
        kept = sorted(name for name in jobs if not (name.endswith("-1") and name[:-1] + "3" in jobs))
        found = play(cluster, {**ends}, die_after=die_after)
        assert found == kept if die_after is None else set(found) >= set(kept)
        stages = status(cluster).stages
        assert {stage.name: stage.restarts for stage in stages if stage.restarts} == restarts
        assert (saved_run_status(status(cluster)).state, len({stage.name for stage in stages})) == (state, 6)

    return story


def computed_elsewhere(die_after: int | None) -> None:
    cluster = make()
    ends = {"r-train-1": (75, LEFT), "r-wait-2": (0, FREE), "r-train-3": (75, LEFT), "r-wait-4": (0, DONE)}
    play(cluster, {**ends}, die_after=die_after)
    found = status(cluster)
    (train,) = [stage for stage in found.stages if stage.name == "train"]
    assert saved_run_status(found).state is RunState.COMPLETE
    assert (found.restarts, train.attempt) == (0, 4)
    assert [each.number for each in found.attempts if each.stage == "train"] == [1, 2, 3, 4]


def queued_by_run(die_after: int | None) -> None:
    cluster, clock = make(pods=PODS), Clock()
    kueue = Kueue(cluster)

    def admit() -> None:
        held = [name for name in kueue.workloads if kueue.conditions(name).get("Admitted") == "True"]
        assert sum(kueue.conditions(name).get("Finished") != "True" for name in held) <= 1
        kueue.admit()

    play(cluster, {"r-train-1": (75, "")}, die_after=die_after, meanwhile=admit)
    for _ in range(4):
        live_until_a_write(cluster, clock, die_after)
    assert sorted(kueue.workloads) == sorted(name.removesuffix("-1") for name in ORDER)
    assert "r-train-2" in cluster.jobs
    assert {kueue.conditions(name)["Finished"] for name in kueue.workloads} == {"True"}


def resizing(die_after: int | None) -> None:
    cluster, _, clock = shrunk()
    writes = [write for _ in range(12) for write in live_until_a_write(cluster, clock, die_after)]
    assert [write for write in writes if write.startswith("create Job")] == ["create Job r-train-3"]
    assert cluster.jobs["r-train-3"]["spec"]["parallelism"] == 3
    (stage,) = status(cluster).stages
    assert (stage.attempt, stage.restarts, stage.nodes) == (3, 1, 3)


def lowering(die_after: int | None) -> None:
    cluster, _, clock = grouped()
    for _ in range(8):
        live_until_a_write(cluster, clock, die_after)
    assert (min_count(cluster, "r-train-1"), list(cluster.jobs)) == (2, ["r-train-1"])
    assert told(cluster).count("Resized: train: not all 4 nodes have room, and 2 are enough from now on") <= 1


def resizing_in_place(die_after: int | None) -> None:
    cluster, _, clock = trains()
    lose(cluster, 2)
    for turn in range(12):
        live_until_a_write(cluster, clock, die_after)
        if turn == 5:
            replace(cluster, 2)
    (stage,) = status(cluster).stages
    assert (decided(cluster), list(cluster.jobs)) == ([2], ["r-train-1"])
    assert (stage.attempt, stage.restarts, stage.nodes) == (1, 0, 3)


def resizing_by_quota(die_after: int | None) -> None:
    queued = whole()
    queued.kueue.take_back(2)
    for nodes in (2, 4):
        queued.kueue.nodes = nodes
        for _ in range(60):
            queued.cluster.writes.clear()
            queued.cluster.die_after = die_after
            with contextlib.suppress(Dead):
                queued.settle()
                continue
            queued.process = Process(queued.cluster, queued.clock)
        queued.cluster.die_after = None
        (name,) = queued.jobs
        queued.start(name)
        queued.wait(2 * EVERY_S)
        (name,) = queued.jobs
        assert queued.jobs == {name: nodes}
        queued.start(name)
    assert status(queued.cluster).stages[0].restarts == 0


FAILS_TWICE = {"r-train-1": 75, "r-train-2": 1}
NO_END = {"r-filter-1": 75, "r-filter-2": 75, "r-filter-3": 75}
STORIES = {
    "all well": run_of_all_stages({}, [], {}),
    "training fails twice": run_of_all_stages(FAILS_TWICE, ["r-train-2", "r-train-3"], {"train": 2}),
    "user error": run_of_all_stages({"r-heads-1": 64}, ORDER[:3], {}, RunState.FAILED),
    "stopped by somebody": run_of_all_stages({"r-filter-1": 143}, ["r-filter-2"], {"filter": 1}),
    "no restarts left": run_of_all_stages(NO_END, ["r-filter-2", "r-filter-3"], {"filter": 2}, RunState.FAILED),
    "computed elsewhere": computed_elsewhere,
    "queued by run": queued_by_run,
    "resizing": resizing,
    "lowering of a PodGroup": lowering,
    "resizing in place": resizing_in_place,
    "resizing by quota": resizing_by_quota,
}


@pytest.mark.parametrize("die_after", [None, 1, 2, 5])
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_story_ends_the_same_whether_the_operator_dies_at_writes_or_not(
    story: Callable[[int | None], None], die_after: int | None
) -> None:
    story(die_after)
