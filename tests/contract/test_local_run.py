"""`diht run` through TorchX's local_cwd, with stub stage programs: caching, restarts, failures, interruption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.steps import LABEL_STEPS
from tests.contract.local import DOCUMENT, Diht, Stub, wait_for, write_run

LABELLED: dict[str, Any] = {**DOCUMENT, "spec": {**DOCUMENT["spec"], "label": {}}}


class Bench:
    """A folder with a run document, and `diht run` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.write(DOCUMENT)

    def write(self, document: dict[str, Any]) -> None:
        write_run(self.folder, document)

    def start(self, *arguments: str, stub: Stub | None = None, interpreters: bool = False) -> Diht:
        return Diht(self.folder, "run", "run.json", *arguments, stub=stub, interpreters=interpreters)

    def run(self, *arguments: str, stub: Stub | None = None, interpreters: bool = False) -> tuple[int, str, str]:
        return self.start(*arguments, stub=stub, interpreters=interpreters).end()

    def attempts(self, stage: str, worker: int = 0) -> int:
        path = self.out / f"attempts-{stage}-{worker}"
        return path.stat().st_size if path.exists() else 0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_run_ends_with_its_results_and_a_second_one_finds_all_stages_cached(bench: Bench) -> None:
    code, stdout, stderr = bench.run(interpreters=True)
    assert (code, stderr) == (0, "")
    assert "spec.filter.workers: 5 -> " in stdout
    assert stdout.splitlines()[-1] == "output: out"
    assert "productive" not in stdout
    assert json.loads((bench.out / "runs/latest/train" / "COMMITTED.json").read_text())["summary"]["steps"] == 3

    code, stdout, _ = bench.run("--verbose", "--set", "train.samples=16", stub={"train": ["ok", 75, "ok"]})
    assert code == 0
    assert "% productive" in stdout, "where the time of a stage that ran went"

    code, stdout, _ = bench.run()
    assert code == 0
    assert "filter   cached\ntrain    cached\n" in stdout
    assert (bench.attempts("filter"), bench.attempts("train")) == (1, 3)


def test_a_run_until_a_stage_leaves_the_later_ones(bench: Bench, tmp_path: Path) -> None:
    code, _, _ = bench.run("--until", "filter", "--workdir", str(tmp_path / "elsewhere"))
    assert code == 0
    assert (tmp_path / "elsewhere" / "out" / "runs/latest/filter" / "COMMITTED.json").exists()
    assert not (tmp_path / "elsewhere" / "out" / "runs/latest/train").exists()
    assert "train" in json.loads((tmp_path / "elsewhere" / "out" / "runs/latest/run.json").read_text())["spec"]
    assert not bench.out.exists()


def test_a_transient_error_and_a_killed_program_are_retried(bench: Bench) -> None:
    code, stdout, _ = bench.run(stub={"train": [75, "kill", "ok"]})
    assert (code, bench.attempts("train"), bench.attempts("filter")) == (0, 3, 1)
    assert "starts again in 1 s: train was told to end with 75: nothing to do" in stdout
    assert "starting, attempt 3" in stdout


@pytest.mark.parametrize(("code", "attempts"), [(65, 1), (75, 2)])
def test_a_failed_stage_passes_its_words_its_log_and_its_code_on(bench: Bench, code: int, attempts: int) -> None:
    bench.write({**DOCUMENT, "spec": {**DOCUMENT["spec"], "failurePolicy": {"maxRestarts": 1}}})
    returned, stdout, stderr = bench.run("--until", "filter", stub={"filter": [code]})
    # what was said, not what a worker counted: the first to fail ends the others, perhaps before they count
    assert (returned, stdout.count("filter   starting")) == (code, attempts)
    first, second = stderr.splitlines()
    assert first.startswith(f"diht: filter: filter was told to end with {code}: nothing to do")
    assert "was told to end" in Path(second.removeprefix("diht: its log: ")).read_text()


def test_label_runs_as_three_jobs_one_after_another_as_on_the_cluster(bench: Bench) -> None:
    bench.write(LABELLED)
    code, stdout, stderr = bench.run("--until", "label", stub={"label-heads": [75, "ok"]})
    assert (code, stderr) == (0, "")
    lines = [line for line in stdout.splitlines() if line.startswith("label ")]
    shown = [line for line in lines if "stubbing:" not in line or line == lines[-1]]  # a slow start shows its progress
    states = [
        "vocabulary: starting",
        "vocabulary: done in",
        "heads: starting",
        "heads: starts again in 1 s",
        "heads: starting, attempt 2",
        "heads: done in",
        "predict: starting",
        "done in",
    ]
    assert [
        line.removeprefix("label").strip().startswith(state) for line, state in zip(shown, states, strict=True)
    ] == [True] * 8
    assert shown[-1].endswith(": 3/3 steps, loss 0.25")
    workers = len(os.sched_getaffinity(0))
    attempts = {step: [bench.attempts(f"label-{step}", worker) for worker in range(workers)] for step in LABEL_STEPS}
    alone = [0] * (workers - 1)
    assert attempts == {"vocabulary": [1, *alone], "heads": [2, *alone], "predict": [1] * workers}

    code, stdout, _ = bench.run("--until", "label")
    assert [line for line in stdout.splitlines() if line.startswith("label ")] == ["label    cached"]


def test_label_that_was_interrupted_resumes_with_its_steps(bench: Bench) -> None:
    bench.write(LABELLED)
    stub: Stub = {"label-heads": ["hang", "ok"]}
    diht = bench.start("--until", "label", stub=stub)
    wait_for((bench.out / "runs/latest/label" / "step").exists)
    diht.process.send_signal(signal.SIGINT)
    assert (diht.end()[0], bench.attempts("label-predict")) == (143, 0)
    code, _, _ = bench.run("--until", "label", stub=stub)
    assert (code, bench.attempts("label-heads"), bench.attempts("label-predict")) == (0, 2, 1)
    assert (bench.out / "runs/latest/label" / "COMMITTED.json").exists()


def test_a_failed_worker_ends_the_others(bench: Bench) -> None:
    (bench.out).mkdir()
    (bench.out / "attempts-filter-1").write_bytes(b"x")  # worker 1 is one attempt ahead: it hangs while worker 0 fails
    code, _, stderr = bench.run("--until", "filter", stub={"filter": [65, "hang"]})  # returns: nobody hangs on
    assert (code, "told to end with 65" in stderr) == (65, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupted_run_stops_its_programs_and_resumes_later(bench: Bench, number: signal.Signals) -> None:
    diht = bench.start(stub={"train": ["hang", "ok"]})
    wait_for((bench.out / "runs/latest/train" / "step").exists)
    diht.process.send_signal(number)
    code, _, stderr = diht.end()
    assert code == 143
    assert "to resume: diht run run.json" in stderr
    saved = (bench.out / "runs/latest/train" / "step").stat().st_size
    time.sleep(0.3)
    assert (bench.out / "runs/latest/train" / "step").stat().st_size == saved  # nothing runs on

    code, stdout, _ = bench.run(stub={"train": ["hang", "ok"]})
    assert (code, bench.attempts("filter"), bench.attempts("train")) == (0, 1, 2)
    assert "filter   cached" in stdout


def test_programs_end_with_a_run_that_was_killed(bench: Bench) -> None:
    diht = bench.start("--until", "filter", stub={"filter": ["hang"]})
    files = [
        bench.out / "runs/latest/filter" / f"pid-{worker}" for worker in range(min(2, len(os.sched_getaffinity(0))))
    ]
    wait_for(lambda: all(file.exists() for file in files))
    programs = [Path("/proc") / file.read_text() / "cmdline" for file in files]
    assert all(program.read_bytes() for program in programs)
    diht.process.kill()
    diht.end()
    wait_for(lambda: not any(program.exists() and program.read_bytes() for program in programs))


def test_two_runs_of_one_document_at_once_go_on_and_keep_their_logs_apart(bench: Bench) -> None:
    first = bench.start(stub={"filter": ["hang"]})
    wait_for((bench.out / "runs/latest/filter" / "step").exists)
    code, stdout, stderr = bench.run()
    assert (code, stderr) == (0, "")
    assert "filter: resumed" in stdout
    logs = [
        sorted(path.name for path in (bench.out / "runs/latest").glob(f"{name}/*-1")) for name in ("logs", "logs-2")
    ]
    assert logs == [["tiny-filter-1"], ["tiny-filter-1", "tiny-train-1"]]
    first.process.send_signal(signal.SIGTERM)
    assert first.end()[0] == 143
    assert bench.run()[0] == 0
    assert not (bench.out / "runs/latest/logs-3").exists()


def test_variants_lie_beside_each_other_and_share_the_stages_that_they_have_in_common(bench: Bench) -> None:
    assert bench.run()[0] == 0
    code, stdout, _ = bench.run("--set", "train.samples=16")
    assert (code, bench.attempts("filter"), bench.attempts("train")) == (0, 1, 2)
    said = " ".join(stdout.split())
    assert "train: new because train.samples 8 -> 16; train/" in said
    assert " is the same training of 8 samples; to go on from it: --set train.initFrom.uri=out/train/" in said
    code, stdout, _ = bench.run("--set", "filter.minActions=0")
    assert (code, bench.attempts("filter"), bench.attempts("train")) == (0, 2, 3)
    assert "filter: new because filter.minActions (default) -> 0" in stdout
    assert [len(list((bench.out / stage).glob("*/COMMITTED.json"))) for stage in ("filter", "train")] == [2, 3]
    code, stdout, _ = bench.run()
    assert (code, bench.attempts("filter"), bench.attempts("train")) == (0, 2, 3), "the first one is still there"
    assert "new because" not in stdout


def test_cached_stage_says_what_is_placement(bench: Bench) -> None:
    assert bench.run()[0] == 0
    code, stdout, _ = bench.run("--set", "train.zeroStage=2")
    assert (code, bench.attempts("train")) == (0, 1)
    assert "train: cached (train.zeroStage 1 -> 2 is placement)" in stdout
    assert "placement" not in bench.run("--set", "train.zeroStage=2")[1]


def test_stage_that_somebody_removed_is_made_again_and_what_follows_stays(bench: Bench) -> None:
    assert bench.run()[0] == 0
    shutil.rmtree(bench.out / "filter")
    assert (bench.run()[0], bench.attempts("filter"), bench.attempts("train")) == (0, 2, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--until", "label"], "--until label: the run has no such stage: it has filter, train"),
        (["--set", "train.sample=1"], "spec.train.sample: unknown key; did you mean samples?"),
        (["--workdir", "/proc/nowhere"], "cannot write /proc/nowhere/out/runs/tiny/"),
    ],
)
def test_wrong_usage_ends_with_one_line(bench: Bench, arguments: list[str], words: str) -> None:
    code, _, stderr = bench.run(*arguments)
    assert (code, stderr.count("\n")) == (64, 1)
    assert words in stderr
