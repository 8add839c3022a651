from __future__ import annotations

import io
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.stages.filter.scores import CLIP_SCHEMA, Row, from_batches, open_scores, schema_of, to_batch
from diht_k8s.stages.filter.text_spotting.matching import SpottedText

FULL = Row(
    shard="s-00000",
    index="a/b",
    uid="u",
    caption_sha256="c",
    objects=["dog", "ball"],
    attributes=[("dog", "small")],
    relations=[("dog", "chase", "ball"), (None, "cook", "ball"), ("dog", "sleep", None)],
    actions=["chase"],
    complexity=3,
    num_actions=1,
    num_subject_actions=1,
    ocr=[SpottedText("woof", 0.8)],
    ocr_state="done",
    kept=True,
    parser_version="p",
)
EMPTY = Row(shard="s-00000", index="c", uid="v", caption_sha256="d", reason="bad:picture_empty", ocr=[], objects=[])


def stored(table: pa.Table, header: dict[str, object] | None) -> bytes:
    buffer = io.BytesIO()
    metadata = {} if header is None else {b"diht": json.dumps(header).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


def test_rows_survive_storage() -> None:
    back = list(from_batches([to_batch([FULL, EMPTY])]))
    assert back[0] == FULL
    assert (back[1].reason, list(back[1].relations), back[1].kept) == ("bad:picture_empty", [], False)


def test_clip_scores_survive_storage_and_are_absent_from_other_tables() -> None:
    rows = [replace(FULL, clip_score=0.1 + 0.2), EMPTY]
    header = {"schema_version": 1, "clip_model": "m"}
    scored = stored(pa.Table.from_batches([to_batch(rows, schema_of(header))]), header)
    assert [row.clip_score for row in open_scores(scored, "a").rows()] == [0.1 + 0.2, None]
    plain = stored(pa.Table.from_batches([to_batch(rows)]), {"schema_version": 1})
    assert "clip_score" not in open_scores(plain, "a").file.schema_arrow.names
    assert [row.clip_score for row in open_scores(plain, "a").rows()] == [None, None]


TABLE = pa.Table.from_batches([to_batch([FULL])])
SCORED = pa.Table.from_batches([to_batch([FULL], CLIP_SCHEMA)])


@pytest.mark.parametrize(
    "data",
    [
        b"no parquet",
        stored(TABLE, None),
        stored(TABLE, {"schema_version": 99}),
        stored(TABLE.drop_columns(["reason"]), {"schema_version": 1}),
        stored(TABLE, {"schema_version": 1, "clip_model": "m"}),
        stored(SCORED, {"schema_version": 1}),
    ],
    ids=["garbage", "no header", "other version", "missing column", "no clip scores", "clip scores of no model"],
)
def test_file_of_another_kind_is_refused_with_its_name(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^out/scores/a\.parquet .*remove it"):
        open_scores(data, "out/scores/a.parquet")
