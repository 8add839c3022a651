"""The last checkpoint on its way from a rank to the termination message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diht_k8s.api.errors import RetryableError
from diht_k8s.api.reports import MAX_LINE_BYTES, Cause, SavedCheckpoint
from diht_k8s.runtime.hangs.heartbeat import FOLDER_VARIABLE, Heartbeat
from diht_k8s.runtime.hangs.watchdog import HangLimits, Watchdog
from diht_k8s.runtime.stage import exit_code_of

SAVED = SavedCheckpoint(step=40, uri="s3://b/step-40", seconds=99)


def test_cause_of_a_failed_training_names_its_step_and_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("DIHT_TERMINATION_LOG", str(tmp_path / "cause"))
    for rank, checkpoint in enumerate((SAVED, SAVED.model_copy(update={"step": 30}))):
        heartbeat = Heartbeat(rank)
        heartbeat.note_position(25, None)
        for _ in range(17):
            heartbeat.step()
        heartbeat.note_position(42, checkpoint)

    def fails() -> None:
        error = RetryableError("lost")
        error.details = Watchdog(tmp_path, HangLimits()).details()
        raise error

    assert exit_code_of(fails) == 75
    cause = Cause.model_validate_json((tmp_path / "cause").read_text())
    assert (cause.step, cause.checkpoint, cause.message) == (42, SAVED, "lost")


def test_place_that_cannot_be_read_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "position-00000").write_text("{")
    assert Watchdog(tmp_path, HangLimits()).details() == {}


@pytest.mark.parametrize(("uri", "kept"), [("s3://b/1", True), ("s3://b/" + "é" * 3000, False)], ids=["usual", "huge"])
def test_cause_with_a_checkpoint_stays_within_the_termination_message(uri: str, kept: bool) -> None:
    checkpoint = SAVED.model_copy(update={"uri": uri})
    text = Cause(exit_code=75, reason="R", message="m" * 9000, checkpoint=checkpoint).encoded()
    assert len(text.encode()) <= MAX_LINE_BYTES
    assert ("checkpoint" in json.loads(text)) is kept
