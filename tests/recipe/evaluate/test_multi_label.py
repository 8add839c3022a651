"""VOCdevkit on disk to mean average precision on the page, and the same figure by the development kit's own lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from diht_k8s.cli.main import main
from diht_k8s.data.imports.torchvision_sets import VOC_CLASSES
from diht_k8s.stages.evaluate import class_texts
from tests.recipe.evaluate.imports.originals import voc2007
from tests.recipe.evaluate.small_run import evaluate_alone, measured


def of_the_kit(lists: Path, scores: dict[str, float]) -> float:
    """VOCevalcls: 1 counts for, -1 against, 0 neither way; the kit orders equal scores by file, and here are none."""
    truth = {name: int(value) for name, value in (line.split() for line in lists.read_text().splitlines())}
    assert truth.keys() == scores.keys()
    ranked = [truth[name] for name in sorted(truth, key=lambda name: -scores[name])]
    found = np.cumsum([value > 0 for value in ranked])
    wrong = np.cumsum([value < 0 for value in ranked])
    points = [(tp / found[-1], tp / (tp + fp)) for tp, fp in zip(found, wrong, strict=True) if tp + fp]
    highest = [max((p for recall, p in points if recall >= t - 1e-9), default=0.0) for t in np.linspace(0, 1, 11)]
    return float(np.mean(highest))


def test_voc_of_whole_images_is_imported_listed_and_measured_as_the_kit_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_texts, "_read", lambda file: {})  # as where clip-benchmark is not installed
    source = voc2007(tmp_path / "in")
    command = ["benchmarks", "import", str(source), f"{tmp_path}/sets/voc", "--format", "voc2007_multilabel"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "(voc2007_multilabel, MultiLabel, 20 classes)" in said
    assert "class names from the data set" in said
    assert main(["benchmarks", str(tmp_path / "sets"), "--yaml", "--only", "voc"]) == 0
    listed = yaml.safe_load(capsys.readouterr().out)["evaluate"]["benchmarks"]
    assert [(each["type"], each["classNames"]) for each in listed] == [
        ("MultiLabel", f"{tmp_path}/sets/voc/classnames.txt")
    ]
    (result,) = measured(stage := evaluate_alone(tmp_path, listed))
    rows = pq.read_table(stage / "benchmarks/000.parquet").to_pydict()
    names = [path.stem for path in sorted((source / "VOCdevkit/VOC2007/JPEGImages").iterdir())][4:]
    again = {}
    for number, name in enumerate(VOC_CLASSES):
        lists = source / f"VOCdevkit/VOC2007/ImageSets/Main/{name.replace(' ', '')}_test.txt"
        if lists.exists():
            again[name] = of_the_kit(lists, dict(zip(names, rows[f"{number} {name} score"], strict=True)))
    found = {each["name"]: each["precision"] for each in result["class_precisions"] if each["precision"] is not None}
    assert found == pytest.approx(again)
    assert result["scores"][0]["value"] == pytest.approx(np.mean(list(again.values())))
    assert sum(each["ignored"] for each in result["class_precisions"]) == len(names) / 2
    page = (stage / "report.html").read_text()
    assert "voc: several classes an image" in page
    assert "11-point mAP" in page
