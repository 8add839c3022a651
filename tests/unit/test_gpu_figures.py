"""The GPU benchmark's pure parts: cases, lines of both trainers, outcomes, figures, goals and table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.cases import LOSS, SIDES, SIZES, Case, Settings, Size, cases
from benchmarks.gpu.commands import command_of
from benchmarks.gpu.process import Box, Measured, Reading, _add_metrics, run_case
from benchmarks.gpu.table import goals_of, markdown, row_of
from diht_k8s.api.reports import Progress
from diht_k8s.api.run import Stage

TINY = Size("tiny", 16, {"embed_dim": 32, "text_cfg": {"context_length": 77}})
SETTINGS = Settings(precision="bf16", workers=3, checkpointing=True, zero_stage=1)


def side(name: str) -> Any:
    return next(found for found in SIDES if found.name == name)


def theirs(done: int, data: float, batch: float) -> str:
    return (
        f"2026-01-01 | INFO | Train Epoch: 0 [  {done}/1000000000 (0%)] Data (t): {data} Batch (t): {batch}, "
        f"9/s, 9/s/gpu LR: 0.1\n"
    )


def test_cases_when_a_version_lacks_an_option_then_its_side_is_left_out_and_fsdp_needs_several_cards() -> None:
    old = {case.name for case in cases([TINY], [1, 8], {"--torchcompile"})}
    new = {case.name for case in cases([TINY], [1, 8], {"--torchcompile", "--torchcompile-strategy", "--fsdp"})}
    assert new - old == {
        "tiny, 1 card: open_clip, compile step",
        "tiny, 8 cards: open_clip, compile step",
        "tiny, 8 cards: open_clip, FSDP",
        "tiny, 8 cards: open_clip, FSDP, compile",
    }
    assert "tiny, 8 cards: HN-NCE alone" in old
    assert len(list(cases(SIZES, [1], set()))) == 3 * 7


@pytest.mark.parametrize("cards", [1, 8])
def test_commands_when_made_for_both_sides_then_with_equal_settings(tmp_path: Path, cards: int) -> None:
    (tmp_path / "shards").mkdir()
    for number in range(5):
        (tmp_path / "shards" / f"{number:05d}.tar").touch()
    command_of(Case(TINY, side("ours, HN-NCE, heads"), cards), SETTINGS, tmp_path, tmp_path)
    train = json.loads((tmp_path / "run.json").read_text())["spec"]["train"]
    reference = command_of(Case(TINY, side("open_clip"), cards), SETTINGS, tmp_path, tmp_path)
    options = dict(text.partition("=")[::2] for text in json.loads(reference[-1]))
    assert f"--nproc-per-node={cards}" in reference
    assert train["processesPerNode"] == cards
    assert train["batchSize"] == int(options["--batch-size"]) * cards == 16 * cards
    assert (train["precision"], options["--precision"]) == ("bf16", "amp_bf16")
    assert train["loaderWorkers"] == int(options["--workers"]) == 3
    assert train["activationCheckpointing"] is ("--grad-checkpointing" in options) is True
    names = {
        "lr": "lr",
        "weightDecay": "wd",
        "beta1": "beta1",
        "beta2": "beta2",
        "eps": "eps",
        "gradientClipNorm": "grad-clip-norm",
    }
    assert {key: float(options[f"--{name}"]) for key, name in names.items()} == train["optimizer"]
    assert train["schedule"]["warmupSamples"] == int(options["--warmup"]) * 16 * cards
    assert options["--train-data"] == f"{tmp_path}/shards/{{00000..00004}}.tar"


def test_reading_when_their_lines_come_then_rate_and_wait_are_of_the_window() -> None:
    reading = Reading(first=100)
    for done, now in ((10, 0.0), (100, 5.0), (150, 6.0), (300, 7.0)):
        reading.take(theirs(done, 0.1 if done < 200 else 0.3, 1.0), now)
    assert reading.samples_per_second == pytest.approx(200 / 2)
    assert reading.window_s == 2.0
    assert reading.waits == pytest.approx([10, 30])
    reading.take("peak_memory_mib=1234\n", 8.0)
    assert reading.peak_mib == 1234


def test_reading_when_our_lines_come_then_memory_and_wait_come_from_the_metrics_of_the_window() -> None:
    reading = Reading(first=100)
    for done, now in ((50, 0.0), (100, 1.0), (300, 3.0)):
        reading.take(f"{Progress(stage=Stage.TRAIN, step='steps', done=done, total=1000).line()}\n", now)
    assert reading.samples_per_second == 100.0
    rows = [
        {"samples": at, "data_wait_percent": wait, "peak_memory_mib": 7.0}
        for at, wait in ((100, 90.0), (200, 4.0), (300, 6.0), (900, 50.0))
    ]
    _add_metrics(reading, "\n".join(map(json.dumps, rows)) + '\n{"samples": 10')
    assert reading.waits == [4.0, 6.0]
    assert reading.peak_mib == 7.0


PRINT_STEPS = (
    f"import time\nfor n in range(1, 400): print({theirs(0, 0.0, 0.01)!r}.replace('[  0', f'[ {{n * "
    f"16}}'), flush=True); time.sleep(0.02)"
)
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PRINT_STEPS!r}], start_new_session=True)"


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        pytest.param(PRINT_STEPS, "done", id="measured"),
        pytest.param(CHILD, "done", id="ranks in sessions of their own"),
        pytest.param(
            "raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", "out of memory", id="out of memory"
        ),
        pytest.param("raise SystemExit('no such option')", "failed", id="failed"),
        pytest.param("import time; time.sleep(600)", "too slow", id="too slow"),
    ],
)
def test_case_when_run_in_its_time_box_then_the_outcome_is_a_result(tmp_path: Path, program: str, outcome: str) -> None:
    box = Box(warm_up_steps=2, window_s=0.3, limit_s=20 if outcome != "too slow" else 1)
    found = run_case([sys.executable, "-c", program], {}, box, batch=16, place=tmp_path)
    assert found.outcome == outcome, found
    assert (found.samples_per_second is not None) is (outcome == "done")
    assert ("no such option" in " ".join(found.last_lines)) is (outcome == "failed")


def rows(**rates: float) -> list[dict[str, Any]]:
    names = {"theirs": "open_clip", "compiled": "open_clip, compile", "ours": "ours", "hard": "ours, HN-NCE"}
    found = []
    for key, rate in rates.items():
        case = Case(TINY, LOSS if key == "loss" else side(names[key]), 2)
        measured = Measured("done", loss_ms=rate) if key == "loss" else Measured("done", rate, 100.0, 1.5)
        found.append(row_of(case, measured, operations=2e9, peak=1e12, predicted=90 << 20))
    return found


def test_row_when_measured_then_mfu_and_hours_follow_from_the_rate() -> None:
    (row,) = rows(ours=400.0)
    assert row["step_ms"] == 80.0
    assert row["mfu_percent"] == 40.0  # 400 x 2e9 over 2 x 1e12
    assert row["gpu_hours_for_a_billion"] == pytest.approx(2 * 1e9 / 400 / 3600, abs=0.1)


def test_goals_when_compared_then_against_open_clip_at_its_best_and_the_loss_against_a_step() -> None:
    found = goals_of(rows(theirs=100.0, compiled=200.0, ours=300.0, hard=320.0, loss=5.0))
    assert [(goal["found"], goal["met"]) for goal in found] == [(32.0, False), (1.5, True), (5.0, False)]
    missing = goals_of([row_of(Case(TINY, side("ours"), 1), Measured("out of memory"), operations=1.0, peak=None)])
    assert {goal["met"] for goal in missing} == {None}


def test_table_when_a_case_ran_out_of_memory_then_it_says_so() -> None:
    found = [
        *rows(ours=300.0),
        row_of(Case(TINY, side("open_clip"), 2), Measured("out of memory"), operations=1.0, peak=None),
    ]
    text = markdown(found, goals_of(found), "card")
    assert "| tiny | 2 | open_clip | - | - | - | - | - | - | - | out of memory |" in text
    assert "| tiny | 2 | ours | 300.0 | 106.7 | 30 % | 100 | 90 | 1.5 % | 1,851.9 | done |" in text
    assert "| tiny | 2 | MFU, percent | 45.0 | 30.0 | no |" in text
    assert "| tiny | 2 | times open_clip at its best | 1.2 | - | not measured |" in text
