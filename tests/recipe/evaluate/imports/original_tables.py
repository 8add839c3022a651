"""Small originals that Hugging Face and others write as tables: Parquet and Arrow."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.recipe.evaluate.imports.drawings import IMAGES, drawing, two_captions
from tests.recipe.evaluate.small_run import COLOURS


def png(row: int) -> bytes:
    buffer = io.BytesIO()
    drawing(row).save(buffer, "PNG")
    return buffer.getvalue()


def _with_features(table: pa.Table, features: dict[str, Any]) -> pa.Table:
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


LABELLED = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": [f"{c}_toy" for c in COLOURS]}}


def _labelled_table(rows: range) -> pa.Table:
    columns = {"image": [{"bytes": png(row), "path": None} for row in rows], "label": [row % 6 for row in rows]}
    return _with_features(pa.table(columns), LABELLED)


def few_rows(features: dict[str, Any]) -> pa.Table:
    """Three images; each other column numbers them."""
    numbers = {name: list(range(3)) for name in features if name != "image"}
    images = [{"bytes": png(row), "path": None} for row in range(3)]
    return _with_features(pa.table({"image": images, **numbers}), features)


def split_files(root: Path, files: Mapping[str, Sequence[Any]], features: dict[str, Any] = LABELLED) -> Path:
    """A repository of Parquet files: the path of each and its labels, with a different drawing in each row of a file."""
    for path, labels in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        images = [{"bytes": png(row), "path": None} for row in range(len(labels))]
        pq.write_table(_with_features(pa.table({"image": images, "label": labels}), features), root / path)
    return root


def numbered_texts(root: Path) -> Path:
    """Classes 1 to 11 as texts."""
    root.mkdir(parents=True)
    images = [{"bytes": png(row), "path": None} for row in range(11)]
    pq.write_table(pa.table({"image": images, "label": [str(row + 1) for row in range(11)]}), root / "test.parquet")
    return root


def numbered_labels(root: Path) -> Path:
    """Classes 1 to 11 as `datasets` makes them of folders: in the order of the texts."""
    root.mkdir(parents=True)
    names = sorted(str(row + 1) for row in range(11))
    images = [{"bytes": png(row), "path": None} for row in range(11)]
    table = pa.table({"image": images, "label": [names.index(str(row + 1)) for row in range(11)]})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    pq.write_table(_with_features(table, features), root / "test.parquet")
    return root


def yes_or_no(root: Path) -> Path:
    """Two classes as truth values."""
    root.mkdir(parents=True)
    images = [{"bytes": png(row), "path": None} for row in range(IMAGES)]
    pq.write_table(pa.table({"image": images, "label": [row % 2 == 1 for row in range(IMAGES)]}), root / "test.parquet")
    return root


def parquet(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    pq.write_table(_labelled_table(range(15)), root / "data/test-00000-of-00002.parquet", row_group_size=4)
    pq.write_table(_labelled_table(range(15, IMAGES)), root / "data/test-00001-of-00002.parquet", row_group_size=4)
    pq.write_table(_labelled_table(range(3)), root / "data/train-00000-of-00001.parquet")
    return root


def arrow(root: Path) -> Path:
    (root / "test").mkdir(parents=True)
    table = _labelled_table(range(IMAGES))
    path = str(root / "test/data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    (root / "test/state.json").write_text("{}")
    (root / "dataset_dict.json").write_text('{"splits": ["test"]}')
    return root


def parquet_captions(root: Path) -> Path:
    root.mkdir(parents=True)
    columns = {
        "image": [{"bytes": png(row), "path": None} for row in range(IMAGES)],
        "caption": [two_captions(row) for row in range(IMAGES)],
    }
    pq.write_table(_with_features(pa.table(columns), {"image": {"_type": "Image"}}), root / "test.parquet")
    return root


def parquet_counts(root: Path) -> Path:
    root.mkdir(parents=True)
    columns = {
        "image": [{"bytes": png(row), "path": None} for row in range(4)],
        "question": ["how many?"] * 4,
        "answer": list(range(4)),
    }
    pq.write_table(pa.table(columns), root / "test.parquet")
    return root


def parquet_winoground(root: Path) -> Path:
    root.mkdir(parents=True)
    columns: dict[str, list[Any]] = {}
    for side in (0, 1):
        columns[f"image_{side}"] = [{"bytes": png(2 * row + side), "path": None} for row in range(12)]
        columns[f"caption_{side}"] = [f"{COLOURS[row % 6]} {side} over {1 - side}" for row in range(12)]
    pq.write_table(pa.table(columns), root / "test.parquet", row_group_size=5)
    return root


def parquet_winoground_without_a_caption(root: Path) -> Path:
    table = pq.read_table(parquet_winoground(root) / "test.parquet")
    captions = [None, *table["caption_1"].to_pylist()[1:]]
    pq.write_table(
        table.set_column(table.schema.get_field_index("caption_1"), "caption_1", [captions]), root / "test.parquet"
    )
    return root


def parquet_winogavil(root: Path) -> Path:
    root.mkdir(parents=True)
    sets = [[f"image{(3 * row + place) % IMAGES}" for place in range(5)] for row in range(10)]
    columns = {
        "cue": [f"{COLOURS[row % 6]} idea" for row in range(10)],
        "candidates": sets,
        "associations": [names[1:3] for names in sets],
        "candidate_images": [[{"bytes": png(int(name[5:])), "path": None} for name in names] for names in sets],
    }
    pq.write_table(pa.table(columns), root / "test.parquet", row_group_size=3)
    return root
