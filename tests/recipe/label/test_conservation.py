"""Labels that do not match what the filter kept end the stage without a marker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.parquet import read_table, write_table
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.label import predict_step
from tests.recipe.label.label_stage import Make, label

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
