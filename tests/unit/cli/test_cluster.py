"""What the cluster commands say and pick, from statuses and pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.reports import Progress
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.status import (
    AttemptStatus,
    Condition,
    FailureCause,
    LastCheckpoint,
    ProgressStatus,
    StageState,
    StageStatus,
    Status,
    wire,
)
from diht_k8s.cli.cluster import copy_lines, newest_pods, planned_objects
from diht_k8s.cli.main import main
from diht_k8s.cli.status_sentences import details, event_sentence, sentence
from diht_k8s.cli.watch import Watcher
from diht_k8s.kube.pod_summary import PodSummary
from tests.unit.api.documents import changed

NOW = "2026-01-01T00:00:00Z"


def condition(kind: ConditionType, reason: Reason, message: str = "", status: Any = "True") -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=NOW)


def status(*conditions: Condition, **more: Any) -> Status:
    return Status(conditions=list(conditions), **more)


RUNS = condition(ConditionType.PROGRESSING, Reason.RUNNING, "train: attempt 1 runs")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            Status(),
            "r has no status yet: if that stays so, no operator serves its namespace, or spec.managedBy names "
            "another controller",
        ),
        (status(RUNS), "r runs: train: attempt 1 runs"),
        (
            status(
                RUNS,
                progress=ProgressStatus(
                    stage="train", step="epoch 3", total=10, percentage=40, estimated_remaining_seconds=93784
                ),
            ),
            "r runs: train: attempt 1 runs, 40 % of epoch 3, about 26:03:04 left",
        ),
        (
            status(condition(ConditionType.PROGRESSING, Reason.UNSCHEDULABLE, "train: 0/2 nodes")),
            "r does not run (Unschedulable): train: 0/2 nodes",
        ),
        (
            status(condition(ConditionType.ACCEPTED, Reason.NAME_CONFLICT, "other", "False"), RUNS),
            "r is not taken on (NameConflict): other",
        ),
        (
            status(RUNS, condition(ConditionType.FAILED, Reason.BAD_DATA, "filter: bad")),
            "r failed (BadData): filter: bad",
        ),
        (
            status(RUNS, condition(ConditionType.COMPLETE, Reason.COMPLETE), completion_time=NOW),
            f"r is complete since {NOW}",
        ),
    ],
)
def test_sentence_says_what_a_run_does(given: Status, says: str) -> None:
    assert sentence("r", given) == says


def test_details_name_the_pod_and_what_it_said() -> None:
    cause = FailureCause(pod="p", node="n", exit_code=75, reason="RetryableError", message="m", log_tail=["a", "b"])
    stage = StageStatus(
        name="train",
        stage=Stage.TRAIN,
        state=StageState.RESTARTING,
        restarts=2,
        restarts_count_towards_max=1,
        cause=cause,
    )
    assert details(Status(stages=[stage])) == [
        "last failure of train: RetryableError, exit code 75 (pod p on node n): m",
        "restarts: 2, 1 of them count towards failurePolicy.maxRestarts",
        "| a",
        "| b",
    ]
    assert details(Status(stages=[stage.model_copy(update={"state": StageState.COMPLETE})])) == []


def test_details_name_the_checkpoint_to_go_on_from_and_the_nodes_to_keep_away_from() -> None:
    saved = LastCheckpoint(step=40, time=NOW, uri="s3://b/step-40")
    runs = StageStatus(name="train", stage=Stage.TRAIN, state=StageState.RUNNING)
    says = f"last checkpoint: step 40, committed {NOW} (s3://b/step-40)"
    assert details(Status(stages=[runs], last_checkpoint=saved)) == [says]
    failed = runs.model_copy(
        update={"cause": FailureCause(reason="NodeLost", message="m"), "avoid_nodes": ["n1", "n2"]}
    )
    lines = details(Status(stages=[failed], last_checkpoint=saved.model_copy(update={"time": None})))
    assert lines[2:] == [
        "train: the next attempt prefers other nodes than n1, n2: two attempts or rounds failed there",
        "last checkpoint: step 40 (s3://b/step-40)",
    ]
    ended = Status(conditions=[condition(ConditionType.COMPLETE, Reason.COMPLETE)], last_checkpoint=saved)
    assert details(ended) == []


def pod(name: str, stage: str, attempt: int, index: int, time: float) -> PodSummary:
    return PodSummary("n", name, f"uid-{name}", "1", "r", stage, attempt, "job", index, "Running", time)


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        (None, ["t20", "t21"]),
        ("train", ["t20", "t21"]),
        ("label", ["h"]),
        ("label-vocabulary", ["v"]),
        ("evaluate", []),
    ],
)
def test_logs_are_those_of_the_newest_attempt(stage: str | None, names: list[str]) -> None:
    pods = [
        pod("v", "label-vocabulary", 1, 0, 1),
        pod("h", "label-heads", 1, 0, 2),
        pod("t10", "train", 1, 0, 3),
        pod("t21", "train", 2, 1, 5),
        pod("t20", "train", 2, 0, 4),
    ]
    assert [each.name for each in newest_pods(pods, stage)] == names


LINE = Progress(stage=Stage.TRAIN, step="steps", done=10, total=40, metrics={"loss": 2.5}).line().encode() + b"\n"
"""What a training writes of its progress."""


@pytest.mark.parametrize("cut", [1, 7, len(LINE) - 1, len(LINE), len(LINE) + 3])
def test_logs_tell_progress_in_words_wherever_blocks_end(cut: int, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    sent = LINE + b"a note\xff\n" + b"x" * 9000 + b"\nno end"
    copy_lines([sent[:cut], sent[cut : cut + 5000], sent[cut + 5000 :]], b"[1] ")
    words = b"[1] train    steps: 10/40 samples  25 %  loss 2.5\n"
    assert capsysbinary.readouterr().out == words + b"[1] a note\xff\n[1] " + b"x" * 9000 + b"\n[1] no end"


def test_plan_lists_each_object_of_each_stage_in_order() -> None:
    run = DihtRun.model_validate(changed(spec__pods={"image": "i"}, spec__train__numNodes=2))
    objects = planned_objects(run, "here")
    assert [(item["kind"], item["metadata"]["name"]) for item in objects] == [
        ("Job", "a-run-filter-1"),
        ("Job", "a-run-vocabulary-1"),
        ("Job", "a-run-heads-1"),
        ("Job", "a-run-predict-1"),
        ("Service", "a-run-train-1"),
        ("Job", "a-run-train-1"),
        ("Job", "a-run-evaluate-1"),
    ]
    assert {item["metadata"]["namespace"] for item in objects} == {"here"}


class TwoRuns:
    namespace = "team"

    def all(self, sweep: str | None) -> list[dict[str, Any]]:
        if sweep is not None:
            return []
        done = status(condition(ConditionType.PROGRESSING, Reason.RUNNING, "train: attempt 1 runs"))
        return [{"metadata": {"name": "a"}, "status": wire(done)}, {"metadata": {"name": "b"}}]


def test_list_of_a_namespace_says_in_a_sentence_each_what_its_runs_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diht_k8s.cli.cluster.run_client", lambda _: TwoRuns())
    assert main(["list", "-n", "team"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert (first, second.startswith("b has no status yet")) == ("a runs: train: attempt 1 runs", True)
    assert main(["list", "-n", "team", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == ["a", "b"]
    assert main(["list", "-n", "team", "--sweep", "s"]) == 0
    assert capsys.readouterr().out == "no runs of the sweep s in the namespace team\n"


class OfAnotherController:
    namespace = "team"

    def run(self, name: str) -> dict[str, Any]:
        failed = status(condition(ConditionType.FAILED, Reason.BAD_DATA), completion_time=NOW)
        return {"metadata": {"uid": "u"}, "spec": {"managedBy": "example.org/queue"}, "status": wire(failed)}

    def pods(self, run: dict[str, Any]) -> list[PodSummary]:
        return []


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("retry", "run team/r is example.org/queue's (spec.managedBy): retry it on the cluster where it runs"),
        ("logs", "run team/r has no pods here: example.org/queue runs it elsewhere (spec.managedBy)"),
    ],
)
def test_what_only_another_cluster_can_do_for_a_run_is_refused_with_its_controller(
    command: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diht_k8s.cli.cluster.run_client", lambda _: OfAnotherController())
    assert main([command, "r", "-n", "team"]) == 64
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("generation", "manager", "warns"),
    [
        (1, "example.org/queue", False),
        (2, "example.org/queue", True),
        (2, "diht.dev/operator", False),
        (2, None, False),
    ],
)
def test_submit_of_a_changed_run_says_that_a_copy_elsewhere_does_not_change(
    generation: int,
    manager: str | None,
    warns: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Accepting:
        namespace = "team"

        def apply(self, run: DihtRun, *, dry_run: bool) -> dict[str, Any]:
            metadata = {"namespace": "team", "name": run.metadata.name, "generation": generation}
            return {"metadata": metadata, "spec": {} if manager is None else {"managedBy": manager}}

    monkeypatch.setattr("diht_k8s.cli.cluster.run_client", lambda _: Accepting())
    monkeypatch.setattr("diht_k8s.cli.cluster.check_for_cluster", lambda *_: None)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(changed()))
    assert main(["submit", str(path), "-n", "team"]) == 0
    said = capsys.readouterr()
    assert "submitted run team/" in said.out
    assert ("run.yaml: warning: example.org/queue has the run " in said.err) == warns


class Screen:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, progress: Any) -> None:
        self.lines.append(f"{progress.stage}: {progress.done}/{progress.total} {progress.metrics}")

    def state(self, stage: Stage, text: str, *, ended: bool = False) -> None:
        self.lines.append(f"{stage}: {text}{' (ended)' if ended else ''}")


class FakeKube:
    namespace = "n"

    def __init__(self, *statuses: Status) -> None:
        self.statuses = list(statuses)

    def run(self, name: str) -> dict[str, Any]:
        given = self.statuses.pop(0)
        return {"metadata": {"uid": "u"}, "status": wire(given)}

    def events(self, uid: str) -> list[dict[str, Any]]:
        return [{"metadata": {"uid": "e"}, "reason": "Started", "message": "filter: attempt 1 started"}]


def entry(name: str, state: StageState, attempt: int = 1) -> StageStatus:
    return StageStatus(name=name, stage=Stage(name.split("-")[0]), state=state, attempt=attempt)


def test_watch_shows_each_change_once_and_ends_with_the_run() -> None:
    running = status(
        RUNS,
        stages=[entry("label-heads", StageState.COMPLETE), entry("label-predict", StageState.RUNNING, 2)],
        progress=ProgressStatus(stage="label-predict", step="labels", done=1, total=4, samples_per_second="2"),
        last_checkpoint=LastCheckpoint(step=40, uri="s3://b/40"),
    )
    done = status(
        condition(ConditionType.COMPLETE, Reason.COMPLETE),
        condition(ConditionType.PROGRESSING, Reason.COMPLETE, status="False"),
        stages=[entry("label-heads", StageState.COMPLETE), entry("label-predict", StageState.COMPLETE, 2)],
        completion_time=NOW,
    )
    screen = Screen()
    watcher = Watcher(FakeKube(running, running, done), "r", screen, clock=lambda: 0.0, sleep=lambda s: None)  # type: ignore[arg-type]
    assert watcher.follow() == 0
    assert screen.lines == [
        "Started: filter: attempt 1 started",
        "label: heads: complete",
        "label: predict: running, attempt 2",
        "label: 1/4 {}",
        "checkpoint of step 40 is committed",
        "label: predict: complete, attempt 2 (ended)",
        f"r is complete since {NOW}",
    ]


def test_watch_says_once_on_how_many_nodes_an_elastic_training_is() -> None:
    train = entry("train", StageState.RUNNING, 3)
    gives_way = train.model_copy(update={"state": StageState.RESTARTING, "attempt": 2, "nodes": 3, "wished_nodes": 4})
    fewer, whole = (train.model_copy(update={"nodes": nodes, "wished_nodes": 4}) for nodes in (3, 4))
    begun = [AttemptStatus(stage="train", number=3, start_time=NOW)]
    told = [status(RUNS, stages=[each], attempts=begun) for each in (gives_way, fewer, fewer)]
    ended = status(
        condition(ConditionType.COMPLETE, Reason.COMPLETE), RUNS, stages=[whole], attempts=begun, completion_time=NOW
    )
    screen = Screen()
    Watcher(FakeKube(*told, ended), "r", screen, clock=lambda: 0.0, sleep=lambda s: None).follow()  # type: ignore[arg-type]
    assert screen.lines[1:] == [
        "train: restarting, attempt 2, 3 of 4 nodes",
        "train: running, attempt 3, 3 of 4 nodes",
        f"train: on 3 of 4 nodes since {NOW}; each later attempt asks for all",
        f"r is complete since {NOW}",
    ]


@pytest.mark.parametrize(
    ("reason", "code"),
    [(Reason.USER_ERROR, 64), (Reason.BAD_DATA, 65), (Reason.STOPPED, 143), (Reason.OUT_OF_MEMORY, 1)],
)
def test_watch_ends_with_the_code_of_the_failure(reason: Reason, code: int) -> None:
    failed = status(RUNS, condition(ConditionType.FAILED, reason))
    watcher = Watcher(FakeKube(failed), "r", Screen(), clock=lambda: 0.0, sleep=lambda s: None)  # type: ignore[arg-type]
    assert watcher.follow() == code


@pytest.mark.parametrize("event", [{}, {"type": "Warning"}, {"type": "Warning", "reason": None, "message": "\x1b[2Jm"}])
def test_event_that_anybody_wrote_about_a_run_is_one_plain_line(event: dict[str, Any]) -> None:
    said = event_sentence(event)
    assert said in (": ", ": m")
