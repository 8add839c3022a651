from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError, ExitCode, RetryableError, StopRequested, UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.reports import SavedCheckpoint, parse_progress
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.claims import END, claims_of
from diht_k8s.runtime.commit import artefact
from diht_k8s.runtime.inputs import why_new
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context, Outcome, exit_code_of, run_stage
from tests.unit.api.documents import changed


class Stub:
    """A stage that writes one file."""

    def __init__(self) -> None:
        self.calls, self.presented = 0, list[str]()

    def identify(self, run: DihtRun, storage: Storage, layout: Layout) -> tuple[Mapping[str, str], Mapping[str, str]]:
        return {"shard": "1"}, {}

    def reads(self, run: DihtRun, storage: Storage, layout: Layout, config: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def execute(self, context: Context) -> Outcome | None:
        self.calls += 1
        context.storage.write_bytes(context.layout.report(context.stage), b"{}")
        if context.workers > 1 and context.worker == 0:
            return None
        return Outcome(
            [artefact(context.storage, context.layout, context.stage, "report.json")], {"worker": context.worker}
        )

    def present(self, run: DihtRun, storage: Storage, layout: Layout) -> None:
        self.presented.append(run.metadata.name)


def run_below(tmp_path: Path, **changes: object) -> DihtRun:
    return load(json.dumps(changed(spec__data__output=str(tmp_path / "out"), **changes)), name="test")


def test_second_call_is_cached_and_does_no_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub, run = Stub(), run_below(tmp_path)
    first = run_stage(stub, run, Stage.FILTER)
    second = run_stage(stub, run, Stage.FILTER)
    assert stub.calls == 1
    assert first == second
    assert "filter: cached" in capsys.readouterr().out


def test_stage_leaves_its_folder_as_the_termination_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIHT_TERMINATION_LOG", str(tmp_path / "log"))
    for _ in ("made", "cached"):
        run_stage(Stub(), run_below(tmp_path), Stage.FILTER)
        said = json.loads((tmp_path / "log").read_text())
        assert (said["exit_code"], said["output"]) == (0, str((tmp_path / "out/runs/latest/filter").resolve()))
        (tmp_path / "log").unlink()


def test_worker_whose_part_is_not_the_last_commits_nothing(tmp_path: Path) -> None:
    stub, run = Stub(), run_below(tmp_path)
    assert run_stage(stub, run, Stage.FILTER, worker=0, workers=2) is None
    last = run_stage(stub, run, Stage.FILTER, worker=1, workers=2)
    assert last is not None
    assert last.summary.keys() == {"wall_seconds", "process_seconds", "processes", "worker"}
    assert (last.summary["processes"], last.summary["worker"]) == (2, 1)


def test_time_of_a_stage_is_that_of_its_steps_and_of_starts_that_failed(tmp_path: Path) -> None:
    class Fails(Stub):
        def execute(self, context: Context) -> Outcome | None:
            raise UserError("no image")

    class Incomplete(Stub):
        def execute(self, context: Context) -> Outcome | None:
            return None

    class Last(Stub):
        def execute(self, context: Context) -> Outcome | None:
            claims_of(context).clear(END)
            return super().execute(context)

    run = run_below(tmp_path)
    with pytest.raises(UserError):
        run_stage(Fails(), run, Stage.LABEL, step="vocabulary", began=time.monotonic() - 30)
    run_stage(Incomplete(), run, Stage.LABEL, step="vocabulary", began=time.monotonic() - 20)
    run_stage(Incomplete(), run, Stage.LABEL, step="heads", began=time.monotonic() - 400)
    run_stage(Incomplete(), run, Stage.LABEL, worker=0, workers=2, step="predict", began=time.monotonic() - 60)
    last = run_stage(Last(), run, Stage.LABEL, worker=1, workers=2, step="predict", began=time.monotonic() - 100)
    assert last is not None
    assert last.summary["wall_seconds"] == pytest.approx(550, abs=5)
    assert last.summary["process_seconds"] == pytest.approx(650, abs=5)


def test_training_that_waited_for_another_counts_no_time(tmp_path: Path) -> None:
    class Waits(Stub):
        def execute(self, context: Context) -> Outcome | None:
            return None

    run = run_below(tmp_path)
    run_stage(Waits(), run, Stage.TRAIN, step="wait", began=time.monotonic() - 500)
    done = run_stage(Stub(), run, Stage.TRAIN, began=time.monotonic() - 10)
    assert done is not None
    assert done.summary["wall_seconds"] == pytest.approx(10, abs=5)


def test_first_worker_presents_a_complete_stage_to_each_run_that_finds_it(tmp_path: Path) -> None:
    stub = Stub()
    run_stage(stub, run_below(tmp_path), Stage.FILTER, worker=0, workers=2)
    assert stub.presented == [], "not complete"
    run_stage(stub, run_below(tmp_path), Stage.FILTER, worker=1, workers=2)
    assert stub.presented == []
    for name in ("a-run", "another"):
        run_stage(stub, run_below(tmp_path, metadata__name=name), Stage.FILTER, workers=2)
    assert stub.presented == ["a-run", "another"]


@pytest.mark.parametrize(("meanwhile", "says"), [(True, "Committed"), (False, "Completed")])
def test_program_that_has_waited_for_another_run_says_whether_that_has_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: bool, says: str
) -> None:
    class Waits(Stub):
        def execute(self, context: Context) -> Outcome | None:
            if meanwhile:
                run_stage(Stub(), run_below(tmp_path, metadata__name="other"), Stage.TRAIN)
            return None

    monkeypatch.setenv("DIHT_TERMINATION_LOG", str(tmp_path / "log"))
    run_stage(Waits(), run_below(tmp_path), Stage.TRAIN, step="wait")
    assert json.loads((tmp_path / "log").read_text())["reason"] == says


def test_stage_that_the_run_does_not_have_is_a_user_error(tmp_path: Path) -> None:
    document = changed(spec__data__output=str(tmp_path))
    del document["spec"]["evaluate"]
    with pytest.raises(UserError, match=r"has no stage evaluate: add spec\.evaluate"):
        run_stage(Stub(), load(json.dumps(document), name="test"), Stage.EVALUATE)


def test_resolved_run_document_lies_in_the_runs_folder(tmp_path: Path) -> None:
    run_stage(Stub(), run_below(tmp_path), Stage.FILTER)
    assert json.loads((tmp_path / "out/runs/latest/run.json").read_text())["metadata"] == {"name": "a-run"}


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("wrong"), ExitCode.USER_ERROR),
        (DataError("bad"), ExitCode.BAD_DATA),
        (RetryableError("again"), ExitCode.RETRYABLE),
        (StopRequested("stopped"), ExitCode.STOPPED),
        (KeyboardInterrupt(), ExitCode.STOPPED),
        (ImportError("no module"), ExitCode.USER_ERROR),
        (ZeroDivisionError("oops"), ExitCode.UNEXPECTED),
    ],
)
def test_errors_become_exit_codes_one_line_and_a_termination_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: ExitCode,
) -> None:
    monkeypatch.setenv("DIHT_TERMINATION_LOG", str(tmp_path / "log"))
    assert exit_code_of(raising(error)) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("diht: ")
    assert len(lines) == 1 or code == ExitCode.UNEXPECTED
    assert json.loads((tmp_path / "log").read_text())["exit_code"] == code


def test_success_is_zero() -> None:
    assert exit_code_of(lambda: None) == 0


def test_first_signal_sets_the_flag_and_work_stops_at_a_safe_point() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        stop = StopFlag().install()
        stop.raise_if_requested()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopRequested, match="start again to resume"):
            stop.raise_if_requested()
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def test_progress_is_printed_at_intervals_and_at_the_end() -> None:
    now, stream = [0.0], io.StringIO()
    reporter = Reporter(Stage.FILTER, stream=stream, clock=lambda: now[0], every_s=10)
    reporter.start("captions", 100, done=20)
    for second in range(1, 17):
        now[0] = float(second)
        reporter.update(20 + 5 * second, {"kept": 1 / 3})
    lines = [parse_progress(line) for line in stream.getvalue().splitlines()]
    assert [line.done for line in lines if line] == [20, 70, 100]
    middle, last = lines[1], lines[2]
    assert middle is not None
    assert last is not None
    assert (middle.per_second, middle.eta_seconds, middle.metrics) == (5.0, 6, {"kept": 0.333333})
    assert last.eta_seconds == 0


@pytest.mark.parametrize(
    ("done", "at_s", "known"),
    [(12, 13.0, False), (40, 29.0, False), (50, 2.0, True), (12, 30.0, True), (0, 60.0, False)],
    ids=["slow first seconds", "just before", "a twentieth", "half a minute", "nothing done"],
)
def test_progress_says_when_it_ends_once_its_rate_is_steady(done: int, at_s: float, known: bool) -> None:
    now, stream = [0.0], io.StringIO()
    reporter = Reporter(Stage.LABEL, stream=stream, clock=lambda: now[0], every_s=0)
    reporter.start("teacher", 1000)
    now[0] = at_s
    reporter.update(done)
    line = parse_progress(stream.getvalue().splitlines()[-1])
    assert line is not None
    assert (line.eta_seconds is not None) is known


def test_progress_of_a_finished_step_is_printed_once_and_then_at_intervals() -> None:
    now, stream = [0.0], io.StringIO()
    reporter = Reporter(Stage.FILTER, stream=stream, clock=lambda: now[0], every_s=10)
    reporter.start("captions", 100)
    for second in range(1, 13):
        now[0] = float(second)
        reporter.update(100)
    reporter.start("captions", 100, done=100)
    assert stream.getvalue().count("\n") == 4, "start, finish, ten seconds later, start of the next step"


def test_progress_names_the_newest_checkpoint_and_the_last_line_comes_at_once() -> None:
    stream = io.StringIO()
    reporter = Reporter(Stage.TRAIN, stream=stream, clock=lambda: 0.0, every_s=10)
    reporter.start("steps", 100)
    saved = SavedCheckpoint(step=3, uri="s3://b/step-3", time=5)
    reporter.saved(saved)
    reporter.update(30)
    reporter.update(30, last=True)
    lines = [parse_progress(line) for line in stream.getvalue().splitlines()]
    assert [(line.done, line.checkpoint) for line in lines if line] == [(0, None), (30, saved)]


def config(beta: float = 0.25, filtered: str = "f", taken: str = "", fields: str = "") -> dict[str, Any]:
    inputs = {"filter": filtered, **({"taken down": taken} if taken else {})}
    return {"stage": "train", "config": {"beta": beta, **dict.fromkeys(fields, 1)}, "inputs": inputs}


ONE, THREE = "1 pairs, leaving abc", "3 pairs, leaving def"


@pytest.mark.parametrize(
    ("before", "after", "complete", "why"),
    [
        (config(), config(), True, ""),
        (config(), config(beta=0.5), True, "new because train.beta 0.25 -> 0.5"),
        (config(), config(beta=0.5), False, "new because train.beta 0.25 -> 0.5"),
        (config(), config(taken=ONE), True, "new because a takedown removed 1 pair of its input"),
        (config(), config(taken=ONE), False, "begins again because a takedown removed 1 pair of its input"),
        (config(taken=ONE), config(taken=THREE), True, "new because a takedown removed 2 pairs of its input"),
        (
            config(),
            config(beta=1, taken=ONE),
            True,
            "new because a takedown removed 1 pair of its input; train.beta 0.25 -> 1",
        ),
        (
            config(filtered="g"),
            config(taken=ONE),
            True,
            'new because inputs.filter "g" -> "f"; inputs.taken down (default) -> "1 pairs, leaving abc"',
        ),
        (
            config(),
            config(fields="abcdefgh"),
            True,
            "new because " + "; ".join(f"train.{name} (default) -> 1" for name in "abcdef") + "; and 2 more",
        ),
    ],
)
def test_new_folder_is_explained_by_what_differs(
    before: dict[str, Any], after: dict[str, Any], complete: bool, why: str
) -> None:
    assert why_new(before, after, complete=complete) == why
