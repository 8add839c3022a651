"""Identity of a training besides its own fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import commit
from diht_k8s.stages.train.stage import identify

MODEL = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}


def weights_of(folder: Path, weights: list[float], **train: Any) -> str | None:
    """What the sources' weights add to the training's inputs."""
    sources = []
    for number, weight in enumerate(weights):
        (folder / f"{number}.tar").write_bytes(b"")
        sources.append({"name": f"s{number}", "shards": [str(folder / f"{number}.tar")], "weight": weight})
    body = {"modelConfig": MODEL, "samples": 1, "distillation": {"mode": "Disabled"}, **train}
    spec = {"data": {"sources": sources, "output": str(folder / "out")}, "train": body}
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"}, "spec": spec}
    return identify(load(json.dumps(run), name="run"), Storage(), Layout("out"))[0].get("weights")


@pytest.mark.parametrize(
    ("weights", "expected"), [([1, 1], None), ([3, 3], None), ([1, 2.5], "s0 1, s1 2.5"), ([4, 2], "s0 2, s1 1")]
)
def test_weights_when_they_differ_then_they_tell_the_training_apart_by_their_ratio(
    tmp_path: Path, weights: list[float], expected: str | None
) -> None:
    assert weights_of(tmp_path, weights) == expected


def test_weights_when_far_apart_then_refused(tmp_path: Path) -> None:
    assert weights_of(tmp_path, [1, 100]) == "s0 1, s1 100"
    with pytest.raises(UserError, match=r"data.sources\[\].weight: 101 is more than 100 times 1"):
        weights_of(tmp_path, [1, 101])


def test_weights_when_the_training_has_shards_of_its_own_then_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.sources\[\].weight does not go with train.shards"):
        weights_of(tmp_path, [1, 2], shards=[str(tmp_path / "0.tar")])


def test_weights_when_shards_of_its_own_are_all_there_is_then_none(tmp_path: Path) -> None:
    (tmp_path / "own.tar").write_bytes(b"")
    assert weights_of(tmp_path, [], shards=[str(tmp_path / "own.tar")]) is None


@pytest.mark.parametrize("mode", ["Concepts", "Disabled"])
def test_labels_without_embeddings_when_these_are_asked_for_then_refused(tmp_path: Path, mode: str) -> None:
    (tmp_path / "own.tar").write_bytes(b"")
    for name, teacher in (("with", {"textEmbeddings": True}), ("without", {})):
        layout = Layout("out").with_folder(Stage.LABEL, str(tmp_path / name))
        commit(Storage(), layout, Stage.LABEL, {"inputs": {}, "config": {"teacher": teacher}}, [], {})

    def identified(name: str) -> None:
        distillation = {"mode": mode, "embeddings": {}}
        own = [str(tmp_path / "own.tar")]
        weights_of(tmp_path, [], shards=own, labels=str(tmp_path / name), distillation=distillation)

    identified("with")
    with pytest.raises(
        UserError, match=r"without hold no embeddings: run their stage with label.teacher.textEmbeddings"
    ):
        identified("without")
