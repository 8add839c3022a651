"""`diht stage train` with real ranks: killed, stopped and resumed it ends as an undisturbed training does, and
open_clip loads the model."""

from __future__ import annotations

import functools
import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import open_clip
import psutil
import pytest
import torch

from diht_k8s.api.documents import dump
from diht_k8s.api.reports import Cause
from diht_k8s.stages.train.model.student import Student
from tests.recipe.train.attempts import (
    BATCH,
    STEPS,
    TRAIN,
    Attempt,
    attempt,
    different_weights,
    freeze,
    kill_all,
    ranks_of,
    undisturbed_training,
)
from tests.recipe.train.small_run import (
    ATTRIBUTES,
    OBJECTS,
    VIT,
    document,
    make_data,
)

FIRST_STOP, SECOND_STOP = 19, 25
pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


def freeze_rank_1(launcher: int) -> None:
    other, rank = ranks_of(launcher)
    freeze(rank, other)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    return undisturbed_training()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage")
    make_data(folder)
    (folder / "run.json").write_text(dump(document(folder, **TRAIN)))
    return folder


@pytest.fixture(scope="module")
def attempts(folder: Path) -> dict[str, Attempt]:
    """One training, disturbed four times; the last attempt is a new interpreter's."""
    watched = {"DIHT_WATCHDOG_SECONDS": "8", "DIHT_WATCHDOG_STEPS": "3", "DIHT_TERMINATION_LOG": str(folder / "cause")}
    disturbed = functools.partial(attempt, folder, forked=True)
    return {
        "all killed": disturbed(at_step=13, act=kill_all),
        "one rank stopped": disturbed(at_step=FIRST_STOP, act=lambda pid: ranks_of(pid)[1].terminate()),
        "launcher stopped": disturbed(at_step=SECOND_STOP, act=lambda pid: psutil.Process(pid).terminate()),
        "one rank frozen": disturbed(at_step=31, act=freeze_rank_1, **watched),
        "left alone": disturbed(),
        "again": attempt(folder),
    }


def test_killed_when_between_checkpoints_then_the_last_one_is_whole(attempts: dict[str, Attempt]) -> None:
    killed = attempts["all killed"]
    assert killed.code == -signal.SIGKILL
    assert killed.newest is not None
    assert killed.newest["cursor"]["step"] >= 5  # the one of step 10 may still have been on its way
    assert killed.newest["cursor"]["step"] % 5 == 0
    assert f"resuming after step {killed.newest['cursor']['step']} of {STEPS}" in attempts["one rank stopped"].output


@pytest.mark.parametrize(
    ("name", "after", "following"),
    [("one rank stopped", FIRST_STOP, "launcher stopped"), ("launcher stopped", SECOND_STOP, "one rank frozen")],
)
def test_stopped_when_asked_then_all_ranks_save_the_same_step_and_exit_143(
    attempts: dict[str, Attempt], name: str, after: int, following: str
) -> None:
    stopped = attempts[name]
    assert stopped.code == 143, stopped.errors
    assert stopped.errors.strip().splitlines()[-1].startswith("diht: stopped on request")
    assert stopped.newest is not None
    assert after <= stopped.newest["cursor"]["step"] < STEPS
    assert len(stopped.newest["parts"]) == 2
    assert f"resuming after step {stopped.newest['cursor']['step']} of {STEPS}" in attempts[following].output


def test_frozen_when_a_rank_makes_no_step_then_named_with_stacks_and_exit_75(
    attempts: dict[str, Attempt], folder: Path
) -> None:
    frozen = attempts["one rank frozen"]
    assert frozen.code == 75, frozen.errors
    last = frozen.errors.strip().splitlines()[-1]
    assert last.startswith("diht: no step for ")
    silent = f"rank 1 on node {socket.gethostname()} does not answer (stopped or dead)"
    assert re.search(
        rf"{re.escape(silent)}; the other waits in all_\w+ \d+ \(\w+\.py:\d+ in \w+\); the ranks are ended", last
    ), last
    assert silent in Cause.model_validate_json((folder / "cause").read_text()).message
    assert "stacks of rank 0" in frozen.errors
    assert "distributed_c10d.py" in frozen.errors  # where the other one waits


def test_finished_when_disturbed_before_then_bit_equal_to_undisturbed(
    attempts: dict[str, Attempt], folder: Path
) -> None:
    assert attempts["left alone"].code == 0, attempts["left alone"].errors
    assert different_weights(folder / "out") == []


def test_metrics_when_disturbed_before_then_steps_rise_and_the_summary_counts_all(
    attempts: dict[str, Attempt], folder: Path
) -> None:
    lines = [
        json.loads(line) for line in (folder / "out" / "runs/latest/train" / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert {"loss", "contrastive_loss", "object_loss", "attribute_loss", "lr", "logit_scale", "gradient_norm"} <= lines[
        0
    ].keys()
    committed = json.loads((folder / "out" / "runs/latest/train" / "COMMITTED.json").read_text())
    summary = committed["summary"]
    assert (summary["samples"], summary["steps"], summary["processes"]) == (STEPS * BATCH, STEPS, 2)
    assert summary["bad"] == {}
    assert len(list((folder / "out" / "runs/latest/train" / "tensorboard").iterdir())) == 1


def test_again_when_committed_then_cached(attempts: dict[str, Attempt]) -> None:
    assert attempts["again"].code == 0
    assert attempts["again"].output.startswith("train: cached")


def test_export_when_loaded_by_open_clip_then_embeddings_are_the_students(
    attempts: dict[str, Attempt], folder: Path, undisturbed: dict[str, Any]
) -> None:
    student = Student(VIT, num_objects=OBJECTS, num_attributes=ATTRIBUTES).eval()
    weights = {key.removeprefix("buffer|"): value for key, value in undisturbed["weights"].items()}
    student.load_state_dict({key: weights[key] for key in student.state_dict()})
    place = f"local-dir:{folder / 'out/runs/latest/train/model'}"
    model, _, preprocess = open_clip.create_model_and_transforms(place)
    tokens = open_clip.get_tokenizer(place)(["a red house with a garden", "cat"])
    assert tokens.shape == (2, VIT["text_cfg"]["context_length"])
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = model.eval()(images, tokens)
        ours = student(images, tokens, 100.0)
    for mine, exported in zip(ours[:3], theirs, strict=True):
        torch.testing.assert_close(exported, mine, rtol=0, atol=1e-5)
    assert tuple(preprocess.transforms[-1].mean) == open_clip.OPENAI_DATASET_MEAN
    assert not [key for key in model.state_dict() if "head" in key and not key.startswith("visual")]
