"""Setup of a student: warnings of rank 0, and the compiler."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.setup import adapt_student, make_student, train_shards

TEXT = {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}
VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": TEXT,
}
RESNET = {**VIT, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}


def run(model: dict[str, Any], **train: Any) -> DihtRun:
    body = {"modelConfig": model, "samples": 64, "batchSize": 16, "distillation": {"mode": "Disabled"}, **train}
    data = {"sources": [{"name": "a", "shards": ["a.tar"]}], "output": "out"}
    document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"}}
    return DihtRun.model_validate({**document, "spec": {"data": data, "train": body}})


@pytest.mark.parametrize(
    ("model", "micro", "rank", "locked", "warns"),
    [
        (RESNET, 4, 0, False, True),
        (RESNET, 4, 1, False, False),
        (RESNET, None, 0, False, False),
        (RESNET, 4, 0, True, False),
        (VIT, 4, 0, False, False),
    ],
    ids=["batch statistics", "another rank", "whole batches", "locked", "no batch statistics"],
)
def test_student_when_its_statistics_are_those_of_micro_batches_then_rank_0_says_so(
    caplog: pytest.LogCaptureFixture, model: dict[str, Any], micro: int | None, rank: int, locked: bool, warns: bool
) -> None:
    asked = run(model, microBatchSize=micro)
    assert asked.spec.train is not None
    with caplog.at_level(logging.WARNING):
        made = make_student(asked, model, None)
        if locked:
            made.lock_image_tower()
        adapt_student(made, asked.spec.train, rank=rank, world=1)
    assert ("batch statistics" in caplog.text) is warns
    assert made.object_head is None


UNEQUAL = "the model of train.modelConfig has batch statistics .* make train."


@pytest.mark.parametrize(
    ("model", "train", "world", "locked", "says"),
    [
        (RESNET, {}, 3, False, f"{UNEQUAL}batchSize 16 a multiple of the 3 processes, or change their number"),
        (RESNET, {"microBatchSize": 5}, 1, False, f"{UNEQUAL}microBatchSize 5 a divisor of the 16 pairs of a process"),
        (RESNET, {"microBatchSize": 17}, 1, False, None),
        (RESNET, {"microBatchSize": 5}, 3, True, None),
        (VIT, {"microBatchSize": 5}, 3, False, None),
    ],
    ids=["ranks", "micro-batches", "one micro-batch", "locked", "no batch statistics"],
)
def test_student_with_batch_statistics_when_parts_of_a_batch_are_unequal_then_refused_by_name(
    model: dict[str, Any], train: dict[str, Any], world: int, locked: bool, says: str | None
) -> None:
    asked = run(model, **train)
    assert asked.spec.train is not None
    made = make_student(asked, model, None)
    if locked:
        made.lock_image_tower()
    with contextlib.nullcontext() if says is None else pytest.raises(UserError, match=says):
        adapt_student(made, asked.spec.train, rank=0, world=world)


@pytest.mark.parametrize("compiler", ["g++", None])
def test_student_when_compiled_on_a_cpu_then_a_compiler_is_needed(
    monkeypatch: pytest.MonkeyPatch, compiler: str | None
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}" if name == compiler else None)
    if compiler is None:
        with pytest.raises(UserError, match="needs a C"):
            make_student(run(VIT, compile=True), VIT, None)
    else:
        make_student(run(VIT, compile=True), VIT, None)


@pytest.mark.parametrize("mode", ["Concepts", "Disabled"])
def test_own_shards_of_one_file_name_are_refused_only_where_labels_go_by_it(tmp_path: Path, mode: str) -> None:
    for name in ("a/0.tar", "b/0.tar"):
        Storage().write_bytes(str(tmp_path / name), b"x")
    asked = run(VIT, shards=[f"{tmp_path}/*/0.tar"], labels="labels", distillation={"mode": mode})
    if mode == "Concepts":
        with pytest.raises(UserError, match="several files are named 0, and labels are found by the name"):
            train_shards(asked, Storage(), Layout("out"))
    else:
        assert len({shard.name for shard in train_shards(asked, Storage(), Layout("out"))}) == 2
