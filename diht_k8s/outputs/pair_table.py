"""All pairs of a filter as a table for spreadsheets: what they are called, whether they were kept, and the scores."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

from diht_k8s.api.layout import Layout
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import read_committed
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.filter.scores import Row, read_scores

COLUMNS: Final = (
    *("shard", "key", "uid", "source", "kept", "reason", "complexity", "num_actions", "num_subject_actions"),
    *("objects", "actions", "spotted_text", "clip_score"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""With these a spreadsheet takes a cell for a formula, and the words come from the web."""


def write_pair_table(storage: Storage, layout: Layout, file: TextIO, stop: StopFlag) -> None:
    """Write the pairs of a filter as CSV, in the order of the shards.

    Args:
        storage: of the output.
        layout: of a run whose filter is complete.
        file: opened with newline="".
        stop: checked between shards.

    Raises:
        UserError: the filter is not complete.
        DataError: a scores file is damaged or gone.
    """
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for shard in read_committed(storage, layout, Stage.FILTER).summary["shards"]:
        stop.raise_if_requested("the table is not complete")
        writer.writerows(map(_cells, read_scores(storage, layout.scores(shard["name"])).rows()))


def _cells(row: Row) -> Mapping[str, object]:
    parsed = bool(row.parser_version)
    return {
        "shard": _text(row.shard),
        "key": _text(row.index),
        "uid": _text(row.uid),
        "source": _text(row.source or ""),
        "kept": row.kept,
        "reason": row.reason,
        "complexity": row.complexity if parsed else "",
        "num_actions": row.num_actions if parsed else "",
        "num_subject_actions": row.num_subject_actions if parsed else "",
        "objects": _list(row.objects),
        "actions": _list(row.actions),
        "spotted_text": _list([text.text for text in row.ocr]),
        "clip_score": "" if row.clip_score is None else row.clip_score,
    }


def _list(words: Sequence[str]) -> str:
    return _text("; ".join(words))


def _text(words: str) -> str:
    """Words that no spreadsheet takes for a formula."""
    return f"'{words}" if words.startswith(_FORMULA) else words
