"""Trackers: off without their variables, never in the way of a stage, no secrets, and an offline run of each."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.run import Stage
from diht_k8s.runtime import tracking
from diht_k8s.runtime.tracking import Tracking, flat, loggable, start_tracking

CONFIG: dict[str, Any] = {
    "seed": 1,
    "config": {"shards": ["https://me:sesame@store/a.tar?signature=sesame"], "batchSize": 8},
    "spec": {"pods": {"env": [{"name": "API_TOKEN", "value": "sesame"}]}},
}
OFFLINE = """
import json, sys
from diht_k8s.api.run import Stage
from diht_k8s.runtime.tracking import start_tracking
for attempt in range(2):  # the second goes on in the run of the first
    tracking = start_tracking("towers", Stage.TRAIN, json.loads(sys.argv[1]))
    tracking.log({"train/loss": 2.0 - attempt, "train/lr": None}, attempt + 1)
    tracking.log({"evaluate/pets (clean)/top-1": 0.25})
    tracking.finish()
    assert tracking.failed == 0, "a tracker failed"
"""


class Tracker:
    """A tracker that waits or refuses."""

    def __init__(self, gate: threading.Event | None = None, error: Exception | None = None) -> None:
        self.lines: list[tuple[dict[str, Any], int | None]] = []
        self._gate, self._error = gate, error

    def log(self, figures: Any, step: int | None) -> None:
        if self._gate is not None:
            self._gate.wait()
        if self._error is not None:
            raise self._error
        self.lines.append((figures, step))

    def finish(self) -> None:
        if self._error is not None:
            raise self._error


def test_tracking_when_no_variable_is_set_then_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (tracking.WANDB, tracking.MLFLOW):
        monkeypatch.delenv(name, raising=False)
    before = set(threading.enumerate())  # some of earlier tests may end meanwhile
    start_tracking("run", Stage.TRAIN, {}).log({"loss": 1.0}, 1)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(("variable", "module"), [(tracking.WANDB, "wandb"), (tracking.MLFLOW, "mlflow")])
def test_tracking_when_the_program_is_missing_then_said_and_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, module: str
) -> None:
    for name in (tracking.WANDB, tracking.MLFLOW):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "anything")
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    found = start_tracking("run", Stage.TRAIN, {})
    found.log({"loss": 1.0}, 1)
    found.finish()
    assert f"{variable} is set, but {module} cannot be imported" in caplog.text


def test_tracker_when_it_fails_then_is_counted_without_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    broken, good = Tracker(error=OSError("https://me:sesame@store refuses")), Tracker()

    def refuse() -> Tracker:
        raise SystemExit(1)

    with caplog.at_level(logging.WARNING):
        found = Tracking({"broken": lambda: broken, "closed": refuse, "good": lambda: good})
        found.log({"loss": 1.0}, 1)
        found.finish()
    assert found.failed == 3  # the line, the end, and the one that does not begin
    assert "closed does not begin" in caplog.text
    assert "sesame" not in caplog.text
    assert good.lines == [({"loss": 1.0}, 1)]


def test_tracker_when_it_hangs_then_neither_a_line_nor_the_end_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "FINISH_S", 0.05)
    monkeypatch.setattr(tracking, "WAITING", 2)
    gate = threading.Event()
    found = Tracking({"slow": lambda: Tracker(gate)})
    for step in range(10):
        found.log({"loss": 1.0}, step)
    found.finish()
    gate.set()
    assert found.failed >= 7
    assert "slow has not finished" in caplog.text


def test_configuration_when_logged_then_without_literal_values_and_credentials() -> None:
    shown = loggable(CONFIG)
    assert "sesame" not in json.dumps(shown)
    assert shown["config"]["batchSize"] == 8
    assert flat({"a": {"b": [1, 2]}, "c": "x" * 600}) == {"a.b": "[1, 2]", "c": "x" * 500}


def run_offline(folder: Path, **variables: str) -> None:
    """In a process of its own: trackers keep state in theirs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MLFLOW"))}
    subprocess.run(
        [sys.executable, "-c", OFFLINE, json.dumps(CONFIG)],
        cwd=folder,
        env={**env, **variables},
        check=True,
        timeout=300,
        capture_output=True,
    )


@pytest.mark.timeout(400)
def test_weights_and_biases_when_offline_then_keeps_figures_and_configuration(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra `tracking` is not installed")
    run_offline(tmp_path, WANDB_PROJECT="diht", WANDB_MODE="offline", WANDB_SILENT="true")
    kept = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")))
    assert b"train/loss" in kept
    assert b"evaluate/pets (clean)/top-1" in kept
    assert b"batchSize" in kept
    assert b"sesame" not in kept
    assert {path.name.rsplit("-", 1)[-1] for path in tmp_path.glob("wandb/offline-run-*")} == {"towers"}


@pytest.mark.timeout(400)
def test_mlflow_when_its_store_is_a_file_then_keeps_figures_and_configuration_of_one_run(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra `tracking` is not installed")
    uri = f"file://{tmp_path}/mlruns"  # MLflow 3 keeps files only where it is allowed to
    run_offline(tmp_path, MLFLOW_TRACKING_URI=uri, MLFLOW_EXPERIMENT_NAME="towers", MLFLOW_ALLOW_FILE_STORE="true")
    (run_folder,) = [path.parent for path in tmp_path.glob("mlruns/*/*/meta.yaml")]
    losses = (run_folder / "metrics/train/loss").read_text().splitlines()
    assert [(line.split()[1], line.split()[2]) for line in losses] == [("2.0", "1"), ("1.0", "2")]
    assert (run_folder / "metrics/evaluate/pets -clean-/top-1").read_text().split()[1] == "0.25"
    assert (run_folder / "params/train.config.batchSize").read_text() == "8"
    assert all("sesame" not in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
