"""Top-k, storing and reading of soft labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.data.shards.parquet import write_table
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.label.soft_labels import read_labels, top_k, write_labels
from diht_k8s.stages.label.vocabulary import check_top_k

HEADER = {"schema_version": SCHEMA_VERSION, "config_sha256": "c", "inputs": {}, "vocabulary_sha256": "v", "top_k": 10}


def softmax(count: int, classes: int, spread: float = 3.0) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(count, classes)) * spread
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("classes", "k"), [(40, 10), (10, 10), (7, 1)], ids=["some", "all", "one"])
def test_top_k_when_compared_then_equals_sorting_in_float64(classes: int, k: int) -> None:
    probabilities = softmax(50, classes)
    ids, stored = top_k(probabilities, k)
    assert (ids.dtype, stored.dtype) == (np.uint16, np.float16)
    for row, given in enumerate(probabilities.astype(np.float64)):
        best = sorted(range(classes), key=lambda number: (-given[number], number))[:k]
        assert ids[row].tolist() == best
        np.testing.assert_allclose(stored[row], given[best] / given[best].sum(), atol=1e-3)


def test_top_k_when_classes_tie_at_the_cut_then_the_smaller_ids_are_kept() -> None:
    probabilities = np.full((200, 300), 0.5, np.float32)
    probabilities[np.arange(200), np.random.default_rng(0).integers(0, 300, 200)] = 0.7
    for row, ids in enumerate(top_k(probabilities, 10)[0].tolist()):
        best = int(probabilities[row].argmax())
        assert ids == [best, *[number for number in range(11) if number != best][:9]]


def test_labels_when_read_back_then_sum_to_one_in_float32_and_missing_rows_are_masked(tmp_path: Path) -> None:
    uri, probabilities = str(tmp_path / "s.parquet"), softmax(30, 40)
    has_label = np.arange(30) % 7 != 3
    heads = [top_k(probabilities, 10), top_k(probabilities[::-1], 10)]
    write_labels(Storage(), uri, [str(number) for number in range(30)], has_label, heads, HEADER)
    labels = read_labels(Storage(), uri)
    assert labels.uids == [str(number) for number in range(30)]
    assert labels.has_label_N.tolist() == has_label.tolist()
    assert labels.objects.ids_NK.dtype == np.int64
    for (ids, stored), read in zip(heads, (labels.objects, labels.attributes), strict=True):
        assert read.ids_NK[has_label].tolist() == ids[has_label].tolist()
        np.testing.assert_allclose(read.probabilities_NK[has_label], stored[has_label].astype(np.float32), atol=1e-3)
        np.testing.assert_allclose(read.probabilities_NK[has_label].sum(axis=1), 1, atol=1e-6)
        assert not read.probabilities_NK[~has_label].any()
    assert pq.read_table(uri).schema.field("object_ids").type.value_type == "uint16"
    assert pq.read_table(uri)["attribute_ids"][3].as_py() is None


def test_labels_when_heads_may_say_nothing_then_probabilities_stay_as_they_are_and_silence_is_zero(
    tmp_path: Path,
) -> None:
    uri = str(tmp_path / "s.parquet")
    probabilities = np.array([[0.9, 0.8, 0.1, 0.2], [0.4, 0.3, 0.2, 0.1], [0.1, 0.5, 0.6, 0.0]], np.float32)
    heads = [top_k(probabilities, 3, 0.5), top_k(probabilities, 3, 0.5)]
    write_labels(
        Storage(), uri, ["a", "b", "c"], np.ones(3, bool), heads, {**HEADER, "top_k": 3, "min_probability": 0.5}
    )
    labels = read_labels(Storage(), uri)
    np.testing.assert_allclose(labels.objects.probabilities_NK, [[0.9, 0.8, 0], [0, 0, 0], [0.6, 0.5, 0]], atol=1e-3)
    assert labels.objects.ids_NK[2].tolist() == [2, 1, 0]
    assert labels.has_label_N.all(), "the image is usable, whatever the heads say"


@pytest.mark.parametrize("change", [{"schema_version": 99}, {"top_k": 9}], ids=["schema", "width"])
def test_read_when_the_header_does_not_fit_then_data_error(tmp_path: Path, change: dict[str, int]) -> None:
    uri, heads = str(tmp_path / "s.parquet"), [top_k(softmax(3, 20), 10)] * 2
    write_labels(Storage(), uri, ["a", "b", "c"], np.ones(3, bool), heads, {**HEADER, **change})
    with pytest.raises(DataError, match="run the stage label again"):
        read_labels(Storage(), uri)


def test_read_when_another_table_then_says_what_is_missing(tmp_path: Path) -> None:
    import pyarrow as pa

    uri = str(tmp_path / "s.parquet")
    write_table(Storage(), uri, pa.table({"uid": ["a"]}), HEADER)
    with pytest.raises(DataError, match="has no column attribute_ids"):
        read_labels(Storage(), uri)


@pytest.mark.parametrize(
    ("k", "classes", "message"),
    [(4, 3, "set label.topK to at most 3"), (1, 70000, "more than 65536")],
    ids=["top-k", "uint16"],
)
def test_check_when_ids_or_k_do_not_fit_then_user_error(k: int, classes: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_top_k(k, {"objects": classes})


def test_labels_when_read_by_duckdb_and_pandas_then_ids_and_probabilities_are_there(tmp_path: Path) -> None:
    """Other tools read the table without this project: what an image shows is one query away."""
    import duckdb
    import pandas as pd

    uri, probabilities = str(tmp_path / "s.parquet"), softmax(30, 40)
    has_label = np.arange(30) != 4
    heads = [top_k(probabilities, 10), top_k(probabilities[::-1], 10)]
    write_labels(Storage(), uri, [str(number) for number in range(30)], has_label, heads, HEADER)
    frame = pd.read_parquet(uri)
    assert frame["object_ids"].isna().tolist() == [number == 4 for number in range(30)]
    np.testing.assert_array_equal(np.stack(frame.loc[has_label, "object_ids"].tolist()), heads[0][0][has_label])
    stored = np.stack(frame.loc[has_label, "attribute_probabilities"].tolist())
    np.testing.assert_array_equal(stored.astype(np.float32), heads[1][1][has_label].astype(np.float32))
    columns, order = "uid, object_ids[1], object_probabilities[1]", "ORDER BY uid::INT"
    answer = duckdb.sql(f"SELECT {columns} FROM '{uri}' WHERE object_ids IS NOT NULL {order}")
    assert answer is not None, "a SELECT has an answer"
    rows = answer.fetchall()
    assert [uid for uid, _, _ in rows] == [str(number) for number in range(30) if number != 4]
    assert [number for _, number, _ in rows] == heads[0][0][has_label, 0].tolist()
    np.testing.assert_allclose([p for _, _, p in rows], heads[0][1][has_label, 0], atol=1e-6)
