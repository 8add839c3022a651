"""The watch of runs: what it stores, of what it tells, and that no broken run stops it."""

from __future__ import annotations

from typing import Any

from diht_k8s.controller.cache.runs import CachedRun, Key, RunStore, RunWatch
from tests.unit.controller.cached_runs import ended_run, run
from tests.unit.controller.script import Script, page, watch


def document(found: CachedRun) -> dict[str, Any]:
    return {**found.document, "metadata": dict(found.document["metadata"])}


class Seen:
    """A watch with its store, and what it told."""

    def __init__(self, *answers: Any) -> None:
        self.script, self.runs = Script(*answers), RunStore()
        self.changed: list[str] = []
        self.watch = RunWatch(self.script, self.runs, self._changed, clock=lambda: 0.0)

    def _changed(self, key: Key) -> None:
        self.changed.append(key[1])


def test_list_is_paged_and_old_ends_are_stored_without_a_word() -> None:
    seen = Seen(page(document(ended_run("old")), document(run("a")), token="t"), page(document(run("b"))))
    assert seen.watch._list() == "10"
    assert (len(seen.runs), seen.changed) == (3, ["a", "b"])
    assert [asked.get("continue") for asked in seen.script.asked] == [None, "t"]
    assert all("labelSelector" not in asked for asked in seen.script.asked)


def test_changes_are_told_once_and_our_own_writes_not_at_all() -> None:
    seen = Seen(
        page(document(run("a", version=1))),
        watch(
            ("MODIFIED", document(run("a", version=1))),
            ("MODIFIED", document(ended_run("a", version=5))),
            ("MODIFIED", document(run("a", version=6))),
            ("DELETED", document(run("a", version=7))),
            ("DELETED", document(run("never", version=8))),
        ),
    )
    seen.watch._list()
    seen.watch._watch("10")
    assert seen.changed == ["a", "a", "a", "a"]


def test_list_removes_what_is_gone_and_leaves_a_new_run_of_the_same_name() -> None:
    seen = Seen(
        page(document(run("gone")), document(ended_run("ended")), document(run("again", uid="1", version=1))),
        page(document(run("again", uid="2", version=2)), version="11"),
    )
    seen.watch._list()
    seen.changed.clear()
    seen.watch._list()
    assert (seen.changed, [key[1] for key, _ in seen.runs.uids()]) == (["again", "ended", "gone"], ["again"])


def test_run_that_cannot_be_read_is_skipped_and_hides_no_other() -> None:
    broken = document(run("broken"))
    broken["status"] = {"conditions": [7]}
    seen = Seen(page({"metadata": {"name": "worse"}}, broken, document(run("a"))))
    seen.watch._list()
    assert seen.changed == ["a"]
