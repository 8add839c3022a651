"""Telemetry of rank 0: lines, warnings, and Weights & Biases, whose module is replaced here."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diht_k8s.api.errors import DihtError, RetryableError, UserError
from diht_k8s.api.layout import Layout
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.train.checkpoint.checkpoint import Cursor
from diht_k8s.recipe.train.engine import Losses
from diht_k8s.recipe.train.health import WINDOW
from diht_k8s.recipe.train.metrics import Metrics
from diht_k8s.recipe.train.telemetry import LAG_LINES, Step, Telemetry, weights_and_biases


class TrackerError(Exception):
    """wandb.errors.Error."""


class CommError(TrackerError):
    """wandb.errors.CommError."""


class AuthenticationError(CommError):
    """wandb.errors.AuthenticationError."""


ERRORS = SimpleNamespace(Error=TrackerError, CommError=CommError, AuthenticationError=AuthenticationError)


class Tracker:
    """A run of Weights & Biases."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, Any]]] = []

    def log(self, values: dict[str, Any], *, step: int) -> None:
        self.lines.append((step, values))


def install(monkeypatch: pytest.MonkeyPatch, init: Any) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "towers")
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, errors=ERRORS))  # type: ignore[arg-type]


def step(number: int, *, loss: float = 2.0, own: tuple[float, ...] = (1.0,), loss_scale: float | None = None) -> Step:
    cursor = Cursor(step=number, position=number * 8, streams=1, config_sha256="ours", seconds=float(number))
    losses = Losses(loss, loss, 0.0, 0.0, 0.5, 0.5, 1.5, 0.25)
    return Step(cursor, losses, 1e-3, 14.0, lambda: 0.7, own, loss_scale, torch.zeros(1, 4), {}, last=True)


def observer(folder: Path, world: int = 1, tracker: Any = None) -> tuple[Telemetry, Metrics]:
    metrics = Metrics(Storage(), Layout(str(folder)), step=0, tracker=tracker)
    return Telemetry(metrics, {}, batch_size=8, world=world), metrics


def test_bandwidth_of_the_fabric_is_in_the_first_line_of_an_attempt(tmp_path: Path) -> None:
    metrics = Metrics(Storage(), Layout(f"{tmp_path}/out"), step=0)
    telemetry = Telemetry(metrics, {}, batch_size=8, world=2, bus_bandwidth=92.5)
    for number in (1, 2):
        telemetry.add(step(number, own=(1.0, 1.0)), 0.0)
    assert telemetry.fabric == {"bus_bandwidth_gb_per_second": 92.5}
    assert [line.get("bus_bandwidth_gb_per_second") for line in metrics.lines] == [92.5, None]


def test_tracker_when_no_project_is_named_then_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert weights_and_biases("run", {}) is None


def test_tracker_when_a_project_is_named_then_it_goes_on_under_the_runs_name_and_gets_each_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}
    tracker = Tracker()
    install(monkeypatch, lambda **options: asked.update(options) or tracker)
    watch, metrics = observer(tmp_path, tracker=weights_and_biases("run", {"seed": 1}))
    assert asked == {"project": "towers", "name": "run", "id": "run", "resume": "allow", "config": {"seed": 1}}
    watch.add(step(7), 0.0)
    assert [number for number, _ in tracker.lines] == [7]
    assert tracker.lines[0][1].keys() == {f"train/{key}" for key in metrics.lines[0] if key not in ("step", "time")}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TrackerError("no API key configured"), UserError),
        (AuthenticationError("the API key is refused"), UserError),
        (CommError("the server does not answer"), RetryableError),
    ],
)
def test_tracker_when_it_does_not_begin_then_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[DihtError]
) -> None:
    def init(**_: Any) -> None:
        raise error

    install(monkeypatch, init)
    with pytest.raises(kind) as raised:
        weights_and_biases("run", {})
    assert str(raised.value).startswith(f"Weights & Biases does not begin ({error})")


def test_tracker_when_not_installed_then_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "towers")
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="WANDB_PROJECT is set, and wandb is not installed"):
        weights_and_biases("run", {})


def test_line_when_written_then_every_figure_is_there_and_the_loss_scale_with_fp16_only(tmp_path: Path) -> None:
    watch, _ = observer(tmp_path)
    watch.add(step(1), 0.1)
    watch.add(step(2, loss_scale=1024.0), 0.1)
    first, second = map(json.loads, (tmp_path / "train" / "metrics.jsonl").read_text().splitlines())
    assert first.keys() == {
        "step", "samples", "time", "loss", "contrastive_loss", "object_loss", "attribute_loss", "lr", "logit_scale",
        "gradient_norm", "image_to_text_top1", "text_to_image_top1", "hardest_negative_weight", "samples_per_second",
        "duplicate_caption_share",
        "data_wait_percent", "peak_memory_mib", "loss_spikes",
    }  # fmt: skip
    assert second.keys() - first.keys() == {"loss_scale"}
    assert second["loss_scale"] == 1024


def test_loss_when_it_jumps_then_in_the_metrics_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch, metrics = observer(tmp_path)
    for number in range(WINDOW):
        watch.add(step(number, loss=2.0 + 0.01 * (number % 3)), 0.0)
    watch.add(step(WINDOW, loss=9.0), 0.0)
    assert [line["loss_spikes"] for line in metrics.lines] == [0] * WINDOW + [1]
    assert f"loss spike at step {WINDOW}: 9 after a median of 2.01" in caplog.text


def test_rank_when_it_lags_for_some_lines_then_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch, metrics = observer(tmp_path, world=3)
    with caplog.at_level(logging.WARNING):
        for number in range(LAG_LINES + 1):
            watch.add(step(number, own=(1.0, 1.0, 4.0)), 0.0)
    assert metrics.lines[-1]["slowest_rank"] == 2
    assert metrics.lines[-1]["slowest_rank_ratio"] == pytest.approx(4.0)
    assert caplog.text.count("rank 2 takes 4.0 times as long as the others") == 1
