"""The same model on the same shards gives clip-benchmark's figures and open_clip's embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.judge import judge
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from tests.recipe.evaluate.small_run import COLOURS, SHAPES, draw, evaluate_alone, measured

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": TEXT,
    },
    "resnet": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": TEXT,
    },
    "convnext": {
        "embed_dim": 32,
        "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        "text_cfg": TEXT,
    },
}
TEMPLATES = ["a photo of {c}.", "{c}", "some {c} thing"]


def clip_benchmark_layout(folder: Path, number: int = 150) -> None:
    """Two benchmarks over two shards each, as clip-benchmark reads them: several captions an image, none twice."""
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES[:2]]
    for kind in ("classes", "pairs"):
        test = folder / kind / "test"
        test.mkdir(parents=True)
        for shard in range(2):
            rows = range(shard * number // 2, (shard + 1) * number // 2)
            write_samples(Storage(), str(test / f"{shard}.tar"), [sample(kind, row, names) for row in rows])
        (test / "nshards.txt").write_text("2")
    (folder / "classes" / "classnames.txt").write_text("\n".join(names))
    (folder / "classes" / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))
    (folder / "pairs" / "dataset_type.txt").write_text("retrieval")


def sample(kind: str, row: int, names: list[str]) -> tuple[str, dict[str, bytes]]:
    label = row * 7 % len(names)
    colour, shape = names[label].split()
    image = {"png": draw(colour, shape, row)}
    if kind == "classes":
        return f"s{row:04d}", {**image, "cls": str(label).encode()}
    captions = [f"a {names[label]} number {row}", f"this is {row} of many: {shape} in {colour}"][: 1 + row % 2]
    return f"s{row:04d}", {**image, "txt": "\n".join(captions).encode()}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_figures_when_clip_benchmark_has_the_same_shards_and_model_are_equal(tmp_path: Path, name: str) -> None:
    clip_benchmark_layout(tmp_path / "wds")
    benchmarks = [
        {"name": "pairs", "type": "Retrieval", "shards": [f"{tmp_path}/wds/pairs/test/{{0..1}}.tar"]},
        {
            "name": "classes",
            "type": "Classification",
            "shards": [f"{tmp_path}/wds/classes/test/{{0..1}}.tar"],
            "classNames": f"{tmp_path}/wds/classes/classnames.txt",
            "templates": TEMPLATES,
        },
    ]
    pairs, classes = measured(evaluate_alone(tmp_path, benchmarks, config=ARCHITECTURES[name]))

    theirs = judge("zeroshot_retrieval", tmp_path / "wds" / "pairs", tmp_path / "model", tmp_path / "r.json").metrics
    for k in ("1", "5", "10"):
        assert pairs["text_to_image"]["recall"][k] == pytest.approx(theirs[f"image_retrieval_recall@{k}"], abs=1e-6)
        assert pairs["image_to_text"]["recall"][k] == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=1e-6)
    theirs = judge(
        "zeroshot_classification", tmp_path / "wds" / "classes", tmp_path / "model", tmp_path / "c.json"
    ).metrics
    assert classes["top1"] == pytest.approx(theirs["acc1"], abs=1e-6)
    assert classes["top5"] == pytest.approx(theirs["acc5"], abs=1e-6)
    assert classes["balanced"] == pytest.approx(theirs["mean_per_class_recall"], abs=1e-6)
