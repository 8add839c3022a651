"""The cache of Jobs and pods: pages, changes, bookmarks, `410 Gone` and a list that fails after it, silence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
import urllib3

from diht_k8s.controller import metrics
from diht_k8s.controller.cache.informer import Informer
from diht_k8s.controller.cache.runs import CachedRun, Key, RunStore, RunWatch
from diht_k8s.controller.cache.watch import Gone
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.job_summary import JobSummary, job_summary
from tests.unit.controller.cached_runs import ended_run, run
from tests.unit.controller.documents import job
from tests.unit.controller.script import Response, Script, page, watch


def informer(script: Script) -> tuple[Informer[JobSummary], list[str]]:
    changed: list[str] = []
    return Informer("Job", script, job_summary, lambda namespace, run: changed.append(run), clock=lambda: 0.0), changed


def names(cache: Informer[JobSummary]) -> list[str]:
    return sorted(summary.name for summary in cache.of("n", "r"))


def test_list_reads_all_pages_and_forgets_what_is_gone() -> None:
    script = Script(page(job(attempt=1), token="t"), page(job(attempt=2)), page(job(attempt=2)))
    cache, _ = informer(script)
    assert cache._list() == "10"
    assert names(cache) == ["r-train-1", "r-train-2"]
    assert [asked.get("continue") for asked in script.asked] == [None, "t"]
    cache._list()
    assert names(cache) == ["r-train-2"]


def test_watch_follows_changes_and_resumes_from_bookmarks() -> None:
    changed = job(version=5, conditions={"Complete": "x"})
    script = Script(
        page(job(attempt=1)),
        watch(
            ("MODIFIED", changed),
            ("ADDED", job(attempt=2)),
            ("DELETED", job(attempt=2)),
            ("BOOKMARK", {"metadata": {"resourceVersion": "77"}}),
        ),
    )
    cache, reported = informer(script)
    cache._list()
    assert cache._watch("10") == "77"
    assert [summary.complete for summary in cache.of("n", "r")] == [True]
    assert len(reported) == 4


def test_older_and_repeated_events_change_nothing() -> None:
    cache, reported = informer(Script())
    cache.put(job(version=9, conditions={"Complete": "x"}))
    cache.put(job(version=9))
    cache.put(job(version=3))
    assert [summary.complete for summary in cache.of("n", "r")] == [True]
    assert len(reported) == 1


def test_answer_that_comes_after_the_object_is_gone_does_not_bring_it_back() -> None:
    made = job(attempt=1)
    cache, _ = informer(Script(page(made), watch(("DELETED", made), ("ADDED", job(attempt=2)))))
    cache._list()
    cache._watch("10")
    cache.put(made)
    assert names(cache) == ["r-train-2"]
    cache._add(made)  # a list has it: etcd was restored
    assert names(cache) == ["r-train-1", "r-train-2"]


def test_change_that_no_decision_depends_on_is_stored_and_reported_to_nobody() -> None:
    cache, reported = informer(Script())
    cache.put(job(version=3))
    cache.put({**job(version=9), "status": {"active": 7}})
    cache.put(job(version=5, conditions={"Complete": "x"}))
    assert [(summary.version, summary.complete) for summary in cache.of("n", "r")] == [("9", False)]
    assert len(reported) == 1


def test_expired_version_is_reported() -> None:
    cache, _ = informer(Script(watch(("ERROR", {"code": 410, "message": "too old"}))))
    with pytest.raises(Gone):
        cache._watch("1")


def test_objects_without_our_labels_are_passed_over() -> None:
    stranger = job()
    stranger["metadata"]["labels"] = {"diht.dev/run": "r"}
    cache, _ = informer(Script(page(stranger)))
    cache._list()
    assert names(cache) == []


def poisoned(attempt: int = 1, **more: Any) -> dict[str, Any]:
    document = job(attempt=attempt, **more)
    document["metadata"]["labels"]["diht.dev/attempt"] = "abc"
    return document


def skipped() -> float:
    return metrics.SKIPPED.labels("Job", "InvalidAttempt")._value.get()


def test_object_that_cannot_be_read_is_counted_logged_once_and_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    before = skipped()
    script = Script(page(poisoned(1), job(attempt=2)), watch(("ADDED", poisoned(1)), ("ADDED", job(attempt=3))))
    cache, _ = informer(script)
    cache._list()
    cache._watch("10")
    assert names(cache) == ["r-train-2", "r-train-3"]
    assert skipped() - before == 2
    assert [record.getMessage() for record in caplog.records] == [
        "Job n/r-train-1 (uid-r-train-1) is skipped: InvalidAttempt"
    ]


def test_object_whose_labels_become_unreadable_is_removed() -> None:
    cache, reported = informer(Script(watch(("MODIFIED", poisoned(1, version=5)))))
    cache.put(job(attempt=1))
    cache._watch("1")
    assert (names(cache), len(reported)) == ([], 2)


def test_unexpected_error_ends_no_watch() -> None:
    done = threading.Event()

    class Last(Script):
        def __call__(self, **options: Any) -> Response:
            if not self.answers:
                done.set()
                cache.stop()
                raise ClusterError(0, "Unreachable", "the end of the script")
            return super().__call__(**options)

    cache, _ = informer(Last(Response([]), page(job(attempt=1))))
    cache.start()
    assert done.wait(60)
    assert names(cache) == ["r-train-1"]


def test_watch_resumes_after_410_and_a_list_that_fails_after_it() -> None:
    done = threading.Event()

    class Last(Script):
        def __call__(self, **options: Any) -> Response:
            if not self.answers:
                done.set()
                cache.stop()
                raise ClusterError(0, "Unreachable", "the end of the script")
            return super().__call__(**options)

    script = Last(
        page(job(attempt=1)),
        watch(("ERROR", {"code": 410})),
        ClusterError(503, "ServiceUnavailable", "not now"),
        page(job(attempt=1), job(attempt=2)),
        watch(("DELETED", job(attempt=1))),
    )
    cache, _ = informer(script)
    cache.start()
    assert done.wait(60)
    assert names(cache) == ["r-train-2"]


def test_list_whose_history_went_back_replaces_what_is_known() -> None:
    """etcd was restored to an older snapshot: newer versions than the server's are of a future that did not happen."""
    script = Script(
        page(job(version=90, conditions={"Failed": "x"}), version="95"), page(job(version=40), version="50")
    )
    cache, _ = informer(script)
    cache._list()
    assert [summary.failing for summary in cache.of("n", "r")] == [True]
    cache._list()
    assert [summary.failing for summary in cache.of("n", "r")] == [False]


def test_age_of_the_cache_grows_with_errors_and_ends_with_an_answer() -> None:
    now = 0.0
    cache = Informer("Job", Script(page(job())), job_summary, lambda *_: None, clock=lambda: now)
    cache.stop()
    cache.start()
    age = metrics.SYNC_AGE.labels("Job")
    now = 100.0
    cache._failed(ClusterError(0, "Unreachable", "away"))
    assert (_value(age), cache.alive_at) == (100.0, 100.0)
    cache._list()
    assert _value(age) == 0.0


def _value(gauge: Any) -> float:
    return next(iter(gauge.collect())).samples[0].value


class Ending(Script):
    """After its last answer it ends the cache that asks."""

    def __init__(self, *answers: Response | Exception) -> None:
        super().__init__(*answers)
        self.ended = threading.Event()
        self.stop: Any = None

    def __call__(self, **options: Any) -> Response:
        if not self.answers:
            self.stop()
            self.ended.set()
            raise ClusterError(0, "Unreachable", "the end of the script")
        return super().__call__(**options)


def followed(*answers: Response | Exception) -> tuple[Informer[JobSummary], list[str], Ending]:
    """What a cache knows and was told after these answers, and what it asked: `list`, `watch VERSION`, `probe`."""
    script = Ending(*answers)
    cache, reported = informer(script)
    script.stop = cache.stop
    cache.start()
    assert script.ended.wait(60)
    return cache, reported, script


def questions(script: Script) -> list[str]:
    return [
        f"watch {asked['resourceVersion']}" if "watch" in asked else "probe" if asked["limit"] == 1 else "list"
        for asked in script.asked
    ]


class Silent(Response):
    """A watch whose connection stays open and carries nothing."""

    def __init__(self) -> None:
        super().__init__({})

    def stream(self, size: int, decode_content: bool = True) -> Iterator[bytes]:
        raise urllib3.exceptions.ReadTimeoutError(cast(Any, None), "", "read timed out")
        yield b""


def unanswered() -> ClusterError:
    """A watch whose connection stays open, on which not even the headers come."""
    error = ClusterError(0, "Unreachable", "no answer")
    silence = urllib3.exceptions.ReadTimeoutError(cast(Any, None), "", "read timed out")
    error.__cause__ = urllib3.exceptions.MaxRetryError(cast(Any, None), "", silence)
    return error


@pytest.mark.parametrize("silence", [Silent(), unanswered()], ids=["after its headers", "before its headers"])
def test_watch_that_falls_silent_is_given_up_and_all_is_listed_again(silence: Response | Exception) -> None:
    cache, _, script = followed(page(job(attempt=1)), silence, page(job(attempt=2)), watch())
    assert names(cache) == ["r-train-2"]
    assert questions(script) == ["list", "watch 10", "list", "watch 10"]
    assert script.asked[1]["timeout_s"][1] == 1.2 * script.asked[1]["timeoutSeconds"]


BROKEN = ClusterError(0, "Unreachable", "connection refused")


def test_watch_whose_connection_broke_resumes_where_it_was() -> None:
    _, _, script = followed(page(job(attempt=1)), BROKEN, page(job(attempt=1), version="12"), watch())
    assert questions(script) == ["list", "watch 10", "probe", "watch 10"]


def test_history_that_went_back_while_the_connection_was_broken_is_read_again() -> None:
    """The server would take the watch from a version of the future and say nothing until it has grown past it."""
    cache, reported, script = followed(
        page(job(version=90, conditions={"Failed": "x"}), version="95"),
        BROKEN,
        page(job(version=40), version="50"),
        page(job(version=40), version="50"),
        watch(),
    )
    assert questions(script) == ["list", "watch 95", "probe", "list", "watch 50"]
    assert [summary.failing for summary in cache.of("n", "r")] == [False]
    assert len(reported) == 2, "the Job was never reported as gone: nobody starts another in its place"


def test_watch_waits_as_long_as_the_server_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    cache, _ = informer(Script(ClusterError(429, "TooManyRequests", "busy", retry_after_s=7.0)))
    monkeypatch.setattr(cache._stop, "wait", lambda seconds: (waits.append(seconds), cache.stop()))
    cache._run()
    assert 7.0 <= waits[0] <= 8.4


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
