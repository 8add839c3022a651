"""Setup of a student: warnings of rank 0, and the compiler."""

from __future__ import annotations

import logging
import shutil
from typing import Any

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.train.setup import make_student

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
    ("model", "micro", "rank", "warns"),
    [(RESNET, 4, 0, True), (RESNET, 4, 1, False), (RESNET, None, 0, False), (VIT, 4, 0, False)],
    ids=["batch statistics", "another rank", "whole batches", "no batch statistics"],
)
def test_student_when_its_statistics_are_those_of_micro_batches_then_rank_0_says_so(
    caplog: pytest.LogCaptureFixture, model: dict[str, Any], micro: int | None, rank: int, warns: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        made = make_student(run(model, microBatchSize=micro), model, None, rank=rank, world=1)
    assert ("batch statistics" in caplog.text) is warns
    assert made.object_head is None


@pytest.mark.parametrize("compiler", ["g++", None])
def test_student_when_compiled_on_a_cpu_then_a_compiler_is_needed(
    monkeypatch: pytest.MonkeyPatch, compiler: str | None
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}" if name == compiler else None)
    if compiler is None:
        with pytest.raises(UserError, match="needs a C"):
            make_student(run(VIT, compile=True), VIT, None, rank=0, world=1)
    else:
        make_student(run(VIT, compile=True), VIT, None, rank=0, world=1)
