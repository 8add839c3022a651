"""What the label stage says of inputs that it cannot use, and of labels that do not match what the filter kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from diht_k8s.api.errors import DataError, DihtError, UserError
from diht_k8s.data.shards.parquet import read_table, write_table
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.label import predict_step
from tests.recipe.label.conftest import Make, label


def spoil_nan(kept: Any, tmp_path: Path) -> dict[str, Any]:
    weights = load_file(kept.label["teacher"]["weights"])
    first = next(key for key in weights if key.endswith("weight"))
    weights[first] = torch.full_like(weights[first], float("nan"))
    save_file(weights, tmp_path / "nan.safetensors")
    return {"teacher": {**kept.label["teacher"], "weights": str(tmp_path / "nan.safetensors")}}


def spoil_format(kept: Any, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    return {"teacher": {**kept.label["teacher"], "weights": str(tmp_path / "weights.pth")}}


def spoil_order(kept: Any, tmp_path: Path) -> dict[str, Any]:
    kept.shards[0].reverse()
    (kept.folder / "runs/latest/filter" / "scores").rename(tmp_path / "scores")
    kept.write()
    for path in (tmp_path / "scores").iterdir():
        path.rename(kept.folder / "runs/latest/filter" / "scores" / path.name)
    return {}


def spoil_images(kept: Any, tmp_path: Path) -> dict[str, Any]:
    for pair in kept.shards[0]:
        pair.image = b"nothing"
    kept.write()
    return {}


def spoil_one_image(kept: Any, tmp_path: Path) -> dict[str, Any]:
    kept.shards[0][3].image = b"nothing"
    kept.write()
    return {}


def damaged_shard(kept: Any, tmp_path: Path) -> dict[str, Any]:
    path = kept.folder / "runs/latest/filter" / "kept" / "shapes-00.tar"
    path.write_bytes(path.read_bytes()[:3000])
    return {}


def setting(**options: Any) -> Callable[[Any, Path], dict[str, Any]]:
    return lambda kept, tmp_path: options


def teacher(**options: Any) -> Callable[[Any, Path], dict[str, Any]]:
    return lambda kept, tmp_path: {"teacher": {**kept.label["teacher"], **options}}


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        pytest.param(spoil_nan, DataError, r"40 of 40 images .* not finite \(0-0, 0-1,", id="nan-features"),
        pytest.param(spoil_format, UserError, "cannot be read safely as a weights file", id="no-weights"),
        pytest.param(spoil_order, DataError, "do not hold the same pairs", id="other-order"),
        pytest.param(spoil_images, DataError, "none of the kept images can be decoded", id="no-image"),
        pytest.param(
            spoil_one_image, DataError, r"1 of 40 kept images .*unreadable 1.*maxBadPercent 1: fix", id="limit"
        ),
        pytest.param(damaged_shard, DataError, "shapes-00.tar is damaged after", id="damaged-shard"),
        pytest.param(setting(topK=4), UserError, r"topK 4 is larger than the vocabulary of objects \(3\)", id="top-k"),
        pytest.param(teacher(model="timm/resnet5"), UserError, "did you mean resnet", id="unknown-teacher"),
        pytest.param(
            teacher(model="resnet50"), UserError, "write timm/NAME, open_clip/NAME or swag/NAME", id="no-library"
        ),
        pytest.param(
            setting(teacher={"model": "timm/resnet50"}), UserError, "no package brings the weights", id="no-package"
        ),
        pytest.param(
            teacher(model="timm/test_vit.r160_in1k"), UserError, "takes 160 pixels only: unset it", id="fixed-size"
        ),
    ],
)
def test_bad_input_when_label_runs_then_one_line_says_what_and_what_to_do(
    make_kept: Make, tmp_path: Path, spoil: Any, kind: type[DihtError], message: str
) -> None:
    kept = make_kept(shards=1).write()
    run = kept.run(**spoil(kept, tmp_path))
    with pytest.raises(kind, match=message) as error:
        label(run)
    assert "\n" not in str(error.value)
    assert ": " in str(error.value)
    assert list((kept.folder / "label").glob("*/COMMITTED.json")) == []


def test_filter_when_not_committed_then_says_which_stage_to_run(make_kept: Make) -> None:
    with pytest.raises(UserError, match="run the stage filter first"):
        label(make_kept(shards=1).run())


@pytest.mark.parametrize("file", ["features/shapes-00.safetensors", "heads/objects.state", "heads/objects.safetensors"])
def test_half_done_stage_when_a_file_of_it_is_damaged_then_names_it(make_kept: Make, file: str) -> None:
    kept = make_kept(shards=1).write()
    label(kept.run(), step="vocabulary")
    path = kept.folder / "runs/latest/label" / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=rf"{file} is damaged \(.+\): remove it and run the stage label again"):
        label(kept.run(), step="heads")


Change = Callable[[pa.Table, dict[str, Any]], tuple[pa.Table, dict[str, Any]]]


def rewritten(change: Change) -> Callable[[Path], None]:
    def apply(labels: Path) -> None:
        uri = str(labels / "shapes-01.parquet")
        write_table(Storage(), uri, *change(*read_table(Storage(), uri)))

    return apply


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a row less": (
        rewritten(lambda table, header: (table.slice(1), header)),
        "40 pairs were kept by the filter, but 39 rows have labels",
    ),
    "a row twice": (
        rewritten(lambda table, header: (pa.concat_tables([table, table.slice(0, 1)]), header)),
        "40 pairs were kept by the filter, but 41 rows have labels",
    ),
    "a bad image that has a label": (
        rewritten(lambda table, header: (table, {**header, "bad": {"picture_unreadable": 1}})),
        "1 images are bad by reason, but 0 rows have no label",
    ),
    "a file less": (
        lambda labels: (labels / "shapes-01.parquet").unlink(),
        "2 shards have kept pairs, but 1 files of labels: run the stage label again",
    ),
    "a file twice": (
        lambda labels: shutil.copy(labels / "shapes-01.parquet", labels / "shapes-02.parquet"),
        r"2 shards have kept pairs, but 3 files of labels: .*\(shapes-02\.parquet\)",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_planted_break_ends_the_stage_without_a_marker(
    name: str, make_kept: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, (change, said), finish = make_kept(shards=2).write().run(), BREAKS[name], predict_step.finish

    def changed(job: Any) -> Any:
        change(Path(job.uri("labels")))
        return finish(job)

    monkeypatch.setattr(predict_step, "finish", changed)
    with pytest.raises(DataError, match=said):
        label(run)
    folder = Path(
        run.spec.data.output,
        json.loads(next(Path(run.spec.data.output).glob("runs/*/*/label.json")).read_text())["folder"],
    )
    assert not (folder / "COMMITTED.json").exists()
