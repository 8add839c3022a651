"""The log of a replica: restarts, broken streams, time limits. A scripted cluster stands in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diht_k8s.api.errors import RetryableError
from diht_k8s.kube.errors import ClusterError
from diht_k8s.launch.app_description import ReplicaLog, pod_lines, replica_lines

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def line(second: float, text: str) -> str:
    return f"{at(second).isoformat().replace('+00:00', 'Z')} {text}"


def pod(name: str, state: str = "terminated") -> dict[str, Any]:
    return {
        "metadata": {"uid": name, "name": name},
        "status": {"containerStatuses": [{"name": "main", "state": {state: {}}}]},
    }


@dataclass
class Script:
    """What the cluster shows at each poll: pods, then the lines of each opened stream."""

    polls: list[list[dict[str, Any]]]
    streams: dict[str, list[list[str] | Exception]]
    poll: int = -1
    opened: list[tuple[str, datetime | None]] = field(default_factory=list)

    def pods(self) -> list[dict[str, Any]]:
        self.poll = min(self.poll + 1, len(self.polls) - 1)
        return self.polls[self.poll]

    def ended(self) -> bool:
        return self.poll >= len(self.polls) - 2

    def open(self, pod: Mapping[str, Any], since: datetime | None, follow: bool) -> Iterator[str]:
        name = pod["metadata"]["name"]
        self.opened.append((name, since))
        for item in self.streams[name].pop(0) if self.streams[name] else []:
            if isinstance(item, Exception):
                raise item
            yield item

    def read(self, **options: Any) -> list[str]:
        source = ReplicaLog(
            pods=self.pods, container="main", open=self.open, ended=self.ended, sleep=lambda seconds: None
        )
        return list(replica_lines(source, **options))


def test_lines_of_all_pods_come_oldest_first() -> None:
    script = Script([[pod("a"), pod("b")]], {"a": [[line(1, "one")]], "b": [[line(2, "two words"), line(2, "")]]})
    assert script.read() == ["one\n", "two words\n", "\n"]


def test_pod_that_has_not_started_has_no_lines() -> None:
    assert Script([[pod("a", "waiting")]], {"a": [[line(1, "x")]]}).read() == []


def test_following_continues_in_the_replacement_pod() -> None:
    script = Script(
        [
            [pod("a", "waiting")],
            [pod("a", "running")],
            [pod("a")],
            [pod("a"), pod("b", "running")],
            [pod("a"), pod("b")],
        ],
        {"a": [[line(1, "one")], []], "b": [[line(0, "two, by a slower clock")], []]},
    )
    assert script.read(follow=True) == ["one\n", "two, by a slower clock\n"]
    assert [name for name, _ in script.opened] == ["a", "a", "b", "b"]  # once more each, when it is seen to have ended


def test_broken_stream_is_reopened_where_it_ended() -> None:
    broken = [line(1, "one"), line(2, "two"), line(2, "and"), RetryableError("the stream broke")]
    script = Script(
        [[pod("a", "running")], [pod("a", "running")], [pod("a")]],
        {"a": [broken, [line(1.5, "old"), line(2, "two"), line(2, "and"), line(3, "three")], []]},  # type: ignore[list-item]
    )
    assert script.read(follow=True) == ["one\n", "two\n", "and\n", "three\n"]
    assert script.opened[:2] == [("a", None), ("a", at(2))]


def test_broken_stream_is_an_error_without_following() -> None:
    with pytest.raises(RetryableError):
        Script([[pod("a")]], {"a": [[RetryableError("broken")]]}).read()  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({}, ["1", "2", "3"]),
        ({"since": at(2)}, ["2", "3"]),
        ({"until": at(2)}, ["1", "2"]),
        ({"since": at(2), "until": at(2)}, ["2"]),
        ({"since": at(2).astimezone().replace(tzinfo=None)}, ["2", "3"]),
        ({"since": at(4)}, []),
    ],
)
@pytest.mark.parametrize("follow", [False, True])
def test_lines_outside_of_the_requested_time_are_dropped(
    options: dict[str, Any], texts: list[str], follow: bool
) -> None:
    script = Script([[pod("a")]], {"a": [[line(second, str(second)) for second in (1, 2, 3)]]})
    assert script.read(follow=follow, **options) == [f"{text}\n" for text in texts]


def test_line_without_a_time_keeps_its_text() -> None:
    script = Script([[pod("a")]], {"a": [[line(1, "x"), "rpc error: log is rotated"]]})
    assert script.read() == ["x\n", "rpc error: log is rotated\n"]


@dataclass
class LoggingCluster:
    """One pod's log; `error` is raised in its place."""

    blocks: list[bytes] = field(default_factory=list)
    error: ClusterError | None = None
    asked: dict[str, Any] = field(default_factory=dict)

    def log(self, namespace: str, pod: str, **options: Any) -> Iterator[bytes]:
        self.asked = options
        if self.error is not None:
            raise self.error
        yield from self.blocks


def lines_of(cluster: LoggingCluster, since: datetime | None = None) -> list[str]:
    named = {"metadata": {"name": "p", "namespace": "n"}}
    return list(pod_lines(cluster, named, "main", since=since, now=START, follow=False))  # type: ignore[arg-type]


def test_log_of_a_pod_is_cut_into_lines_whatever_its_bytes() -> None:
    assert lines_of(LoggingCluster(["é".encode()[:1], "é".encode()[1:] + b"\n\xff\nrest"])) == ["é", "�", "rest"]


def test_log_of_a_pod_that_is_gone_has_no_lines() -> None:
    assert lines_of(LoggingCluster(error=ClusterError(404, "NotFound", "p"))) == []
    with pytest.raises(ClusterError):
        lines_of(LoggingCluster(error=ClusterError(403, "Forbidden", "p")))


@pytest.mark.parametrize(("age_s", "asked_s"), [(0, 1), (1.5, 2), (60, 61), (-5, 1)])
def test_log_since_a_moment_is_asked_for_in_whole_seconds_before_it(age_s: float, asked_s: int) -> None:
    cluster = LoggingCluster()
    lines_of(cluster, START - timedelta(seconds=age_s))
    assert cluster.asked == {"container": "main", "timestamps": True, "follow": False, "sinceSeconds": asked_s}
