"""Tables in text: any range of rows is what a whole reading gives there, whatever the lines are."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diht_k8s.data.imports import text_tables
from diht_k8s.data.imports.text_tables import TextTable

CELL = st.text(st.sampled_from(["a", "é", "\n", "\r", '"', ",", " ", "\udcff", "\ufeff"]), max_size=5)
JSON_LINE = st.sampled_from(
    ['{"a": 1}', '{"a": "é"}', "", " ", "broken", "[]", "{}", '{"a": "\udcff"}', "\ufeff{}", "x" * 40]
)


def last(names: Sequence[str]) -> str | None:
    return names[-1]


@given(
    rows=st.lists(st.tuples(CELL, CELL), max_size=12),
    bom=st.booleans(),
    size=st.integers(0, 12),
    start=st.integers(0, 12),
    between=st.integers(1, 4),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_range_of_csv_is_that_of_a_whole_reading(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    bom: bool,
    size: int,
    start: int,
    between: int,
    ending: str,
) -> None:
    path = tmp_path_factory.mktemp("table") / "a.csv"
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator=ending, quoting=csv.QUOTE_ALL).writerows([("x", "y"), *rows])
    content = ("\ufeff" if bom else "") + written.getvalue()
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_tables, "ROWS_BETWEEN_MARKS", between)
        table = TextTable.open(path, ",", last)
        found = list(table.rows(start, start + size))
        assert [row for _, row in table.rows(0, table.total)] == [{"x": one, "y": two} for one, two in rows]
        assert found == list(table.rows(0, table.total))[start : start + size]
    assert table.total == table.readable == table.count() == len(rows)


@given(
    lines=st.lists(JSON_LINE, max_size=12), size=st.integers(0, 12), start=st.integers(0, 12), between=st.integers(1, 4)
)
def test_any_range_of_json_lines_is_that_of_a_whole_reading(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int, start: int, between: int
) -> None:
    path = tmp_path_factory.mktemp("table") / "a.jsonl"
    path.write_bytes("\n".join(["{}", *lines]).encode(errors="surrogateescape"))
    expected: list[tuple[int, dict[str, object] | None]] = []
    for number, line in enumerate(["{}", *lines], start=1):
        if line.strip():
            is_object = line.startswith("{")
            expected.append((number, json.loads(line) if is_object else None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_tables, "ROWS_BETWEEN_MARKS", between)
        patch.setattr(text_tables, "MAX_LINE", 32)
        table = TextTable.open(path, ",", last)
        assert list(table.rows(start, start + size)) == expected[start : start + size]
        assert table.total == table.count() == len(expected)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.csv", ["x,y", "1,2", f"1,{'z' * 300}", "3,4"]),
        ("a.csv", ["x,y", "1,2", f'1,"{"z" * 300}', "3,4"]),
        ("a.jsonl", ['{"x": "1", "y": "2"}', json.dumps({"x": "z" * 300}), '{"x": "3", "y": "4"}']),
    ],
    ids=["csv", "csv with an open quote", "json lines"],
)
def test_a_line_without_end_costs_its_row_only(
    name: str, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tables, "MAX_LINE", 64)
    (tmp_path / name).write_text("\n".join(lines))
    table = TextTable.open(tmp_path / name, ",", last)
    assert [row for _, row in table.rows(0, 3)] == [{"x": "1", "y": "2"}, None, {"x": "3", "y": "4"}]
    assert (table.total, table.readable, table.count()) == (3, 2, 3)
