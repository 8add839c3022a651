"""One pass of images through a network serves labels and training, where the teacher is the locked tower: real
programs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.whole_run import TRAIN, document, prepare, unknown, walk
from tests.recipe.evaluate.small_run import CONFIG

LITE = "timm/tf_efficientnet_lite0"
VISION = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "timm_proj": "linear", "image_size": 224}
STORED = {
    **TRAIN,
    "modelConfig": {**CONFIG, "vision_cfg": VISION},
    "initFrom": {"uri": LITE},
    "lockImageTower": True,
    "features": "Stored",
}


def written(name: str, *, evaluated: bool = True, **teacher: Any) -> None:
    label = {"workers": 1, "heads": {"epochs": 1, "batchSize": 32}, "topK": 3, "teacher": {"model": LITE, **teacher}}
    left_out: dict[str, Any] = {} if evaluated else {"evaluate": None}
    Path(f"{name}.json").write_text(json.dumps(document(name, label=label, train=STORED, **left_out)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_features_of_the_teacher_serve_the_training_where_it_sees_whole_images_and_are_made_where_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare()
    written("whole", crop="Whole")
    assert walk("run whole.json") == 0
    logs = "".join(path.read_text() for path in Path("out/runs/whole").glob("*/logs*/**/*.log"))
    assert "the teacher's features serve 2 of 2 shards" in capfd.readouterr().out + logs
    assert not Path("out/features").exists()
    report = json.loads(Path("out/runs/latest/evaluate/report.json").read_text())
    assert report["benchmarks"]
    assert unknown(Path("out")) == []

    written("middle", evaluated=False)
    assert walk("run middle.json") == 0
    assert len(list(Path("out/features").glob("*/*.safetensors"))) == 2

    Path("list.txt").write_text("1000-5\n")
    assert walk("purge whole.json --exclude list.txt") == 0
    assert len(list(Path("out/features").glob("*/*.safetensors"))) == 1
    written("whole", evaluated=False, crop="Whole")
    assert walk("run whole.json") == 0
    assert len(list(Path("out/features").glob("*/*.safetensors"))) == 2  # the teacher's file of that shard is gone
