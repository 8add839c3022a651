"""Memory of an import: what it holds at a time does not grow with the source."""

from __future__ import annotations

import csv
import gc
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diht_k8s.data.imports.layouts import open_pairs
from diht_k8s.data.imports.pair_import import PairImport, import_pairs
from diht_k8s.data.imports.records import ReaderOptions
from diht_k8s.data.shards.storage import Storage

FEW, MANY = 200, 800
NOTE: Final = 4000
"""Characters of a column that each row has, so that rows are large."""


def _image(side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, "PNG")
    return buffer.getvalue()


def _rows(count: int) -> Iterator[dict[str, str]]:
    for number in range(count):
        yield {"image": "a.png", "caption": f"a red square {number}", "note": f"{number:06d}" * (NOTE // 6)}


def _csv(folder: Path, count: int) -> Path:
    (folder / "a.png").write_bytes(_image())
    with (folder / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "caption", "note"])
        writer.writeheader()
        writer.writerows(_rows(count))
    return folder / "a.csv"


def _json_lines(folder: Path, count: int) -> Path:
    (folder / "a.png").write_bytes(_image())
    with (folder / "a.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in _rows(count))
    return folder / "a.jsonl"


def _table(count: int) -> pa.Table:
    rows = [{**row, "image": {"bytes": _image(), "path": None}} for row in _rows(count)]
    return pa.Table.from_pylist(rows)


def _parquet(folder: Path, count: int) -> Path:
    """All rows in one group, whose pages are read one by one."""
    (folder / "data").mkdir()
    path = folder / "data/train-00000-of-00001.parquet"
    pq.write_table(
        _table(count), path, row_group_size=count, write_batch_size=10, data_page_size=1 << 14, compression="none"
    )
    return folder


def _arrow(folder: Path, count: int) -> Path:
    """As `datasets` saves it: batches of 1,000 rows, here 100."""
    table, path = _table(count), folder / "train/data-00000-of-00001.arrow"
    path.parent.mkdir()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=100)
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    return folder


def run(source: Path, output: Path) -> int:
    """Import; the bytes that Arrow holds at most."""
    held = list[int]()
    opened = open_pairs(source, None, ReaderOptions("train"))
    order = PairImport(str(output), 100)
    marker = import_pairs(opened, order, Storage(), lambda *_: None, lambda: held.append(pa.total_allocated_bytes()))
    assert marker["bad"] == {}
    return max(held)


def peak(source: Path, output: Path) -> int:
    """Bytes that Python and Arrow hold at most during an import, above what they hold before."""
    gc.collect()
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        arrow = run(source, output)
        return tracemalloc.get_traced_memory()[1] + arrow - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("write", [_csv, _json_lines, _parquet, _arrow], ids=lambda write: write.__name__.strip("_"))
def test_memory_of_an_import_does_not_grow_with_the_table(write: Callable[[Path, int], Path], tmp_path: Path) -> None:
    sources = list[Path]()
    for count in (1, FEW, MANY):
        folder = tmp_path / f"in-{count}"
        folder.mkdir()
        sources.append(write(folder, count))
    run(sources[0], tmp_path / "loads-modules")
    peaks = [peak(source, tmp_path / f"out-{source.parent.name}-{source.name}") for source in sources[1:]]
    grown = (MANY - FEW) * NOTE
    assert peaks[1] - peaks[0] < grown // 3, f"peaks {peaks} bytes; the table grew by {grown}"
