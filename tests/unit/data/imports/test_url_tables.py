from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports import url_tables
from diht_k8s.data.imports.url_tables import Columns, find_columns, part_starts, parts_of, read_part
from diht_k8s.data.shards.sources import TablePart
from diht_k8s.data.shards.storage import Storage

PUBLISHED = {
    "DataComp": (
        [
            "uid",
            "url",
            "text",
            "original_width",
            "original_height",
            "clip_b32_similarity_score",
            "face_bboxes",
            "sha256",
        ],
        ("url", "text", "uid", "original_width", "original_height", "sha256"),
    ),
    "LAION": (
        ["SAMPLE_ID", "URL", "TEXT", "HEIGHT", "WIDTH", "LICENSE", "NSFW", "similarity"],
        ("URL", "TEXT", None, "WIDTH", "HEIGHT", None),
    ),
    "Re-LAION": (
        [
            "url",
            "caption",
            "similarity",
            "key",
            "status",
            "width",
            "height",
            "original_width",
            "original_height",
            "sha256",
        ],
        ("url", "caption", None, "original_width", "original_height", "sha256"),
    ),
    "COYO": (
        ["id", "url", "text", "width", "height", "image_phash"],
        ("url", "text", None, "width", "height", None),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_column_names_of_published_data_sets_are_known(name: str) -> None:
    names, expected = PUBLISHED[name]
    found = find_columns("a.parquet", names, None, ["similarity"])
    assert found == Columns(*expected, numbers=("similarity",) if "similarity" in names else ())


def test_captions_of_another_column_are_read_where_the_run_names_it() -> None:
    assert find_columns("a.csv", ["url", "text", "recaption"], "recaption", []).caption == "recaption"
    with pytest.raises(UserError, match="captionKey"):
        find_columns("a.csv", ["url", "text"], "recaption", [])


@given(st.lists(st.integers(0, 400_000), max_size=20))
def test_parts_cover_all_rows_once_and_none_is_large(groups: Sequence[int]) -> None:
    starts = part_starts(groups)
    assert starts[0] == 0
    assert starts[-1] == sum(groups)
    sizes = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < size <= url_tables.PART_ROWS for size in sizes) or starts == [0, 0]


@pytest.mark.parametrize(
    ("groups", "starts"),
    [
        ([10_000] * 7, [0, 50_000, 70_000]),
        ([100_001], [0, 33_333, 66_667, 100_001]),
        ([50_000, 50_000], [0, 50_000, 100_000]),
        ([], [0, 0]),
    ],
)
def test_small_row_groups_share_a_part_and_large_ones_are_cut(groups: list[int], starts: list[int]) -> None:
    assert part_starts(groups) == starts


@given(
    lines=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=30),
    size=st.integers(1, 200),
    ending=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_each_line_is_read_in_one_part_wherever_the_parts_begin(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int, ending: str, last: bool
) -> None:
    rows = [{"url": "u", "text": text} for text in lines]
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    content = ending.join(json.dumps(row, ensure_ascii=False) for row in rows) + (ending if last else "")
    path.write_bytes(content.encode())
    length = path.stat().st_size
    starts = [*range(0, length, size), length]
    found = [
        row
        for a, b in itertools.pairwise(starts)
        for _, row in read_part(Storage(), str(path), TablePart(a, b, 0), None, [])[1]
    ]
    assert found == rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", b'url,text\nhttp://a/1,"a dog,\nrunning"\n'),
        ("A.CSV.GZ", b'url,text\nhttp://a/1,"a dog,\nrunning"\n'),
        ("a.jsonl.gz", b'{"url": "http://a/1", "text": "a dog,\\nrunning"}\n'),
    ],
)
def test_gzipped_text_is_one_part_however_long_it_is(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_tables, "PART_BYTES", 10)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content))
    (part,) = parts_of(Storage(), str(path))
    assert list(read_part(Storage(), str(path), part, None, [])[1]) == [
        ("0", {"url": "http://a/1", "text": "a dog,\nrunning"})
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_table_with_two_columns_of_one_name_is_refused(name: str, tmp_path: Path) -> None:
    path, names, cells = tmp_path / name, ["url", "text", "text"], ["http://a/1", "a dog", "a cat"]
    if name == "a.parquet":
        pq.write_table(pa.Table.from_arrays([pa.array([cell]) for cell in cells], names), path)
    else:
        mark = "," if name == "a.csv" else "\t"
        path.write_text("".join(f"{mark.join(line)}\n" for line in (names, cells)))
    (part,) = parts_of(Storage(), str(path))
    with pytest.raises(DataError, match=r"two columns of one name \(text\)"):
        list(read_part(Storage(), str(path), part, None, [])[1])


def test_columns_without_a_name_are_not_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("url,text,,\nhttp://a/1,a dog,,\n")
    (part,) = parts_of(Storage(), str(path))
    assert [row for _, row in read_part(Storage(), str(path), part, None, [])[1]] == [
        {"url": "http://a/1", "text": "a dog", "": ""}
    ]


def test_parts_of_a_parquet_file_read_their_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_tables, "PART_ROWS", 4)
    path = tmp_path / "a.parquet"
    rows = [{"url": f"u{number}", "text": str(number), "unused": [number]} for number in range(11)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=9)
    parts = parts_of(Storage(), str(path))
    assert [(part.start, part.stop) for part in parts] == [(0, 3), (3, 6), (6, 9), (9, 11)]
    found = [list(read_part(Storage(), str(path), part, None, [])[1]) for part in parts]
    assert [key for part in found for key, _ in part] == [str(number) for number in range(11)]
    assert [row for part in found for _, row in part] == [{"url": r["url"], "text": r["text"]} for r in rows]
