"""What became of a pair at each stage of a run, and why; and all pairs of a filter as a table for spreadsheets.

In: a name of the pair (uid, key in its shard, or where it came from) and the run's output. Out: a sentence a stage. Of
each scores file three columns are read; of a shard with such a pair its rows, and the raw sample for its words.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.filter import Filter
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import Sample, until_damage
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import find_committed, read_committed
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.filter.caption_tables import filter_input, has_tables, read_rows
from diht_k8s.stages.filter.rules import read_exclusions, taken_down
from diht_k8s.stages.filter.scores import BAD, Row, read_columns, read_scores
from diht_k8s.stages.label.soft_labels import read_label_table

MOST: Final = 20
"""Pairs of one name that are told: keys come again in other shards."""
_NAMES: Final = ("uid", "index", "source")


@dataclass(frozen=True)
class PairHistory:
    """A pair and what each stage made of it."""

    shard: str
    row: int
    """number in the raw shard."""
    uid: str
    key: str
    source: str | None
    caption: str | None
    """None where the raw shard cannot be read any more."""
    stages: Mapping[str, str]
    """stage -> sentence, of the stages that have one."""


def histories(run: DihtRun, storage: Storage, name: str, stop: StopFlag) -> list[PairHistory]:
    """The pairs with this name, `MOST` at most.

    Args:
        run: with a filter that is complete.
        storage: of its inputs and output.
        name: uid, key, or path or row that the pair came from; of a path its end will do, without the extension, too.
        stop: checked between shards.

    Raises:
        UserError: the run has no complete filter, or no pair has this name.
    """
    if run.spec.filter is None:
        raise UserError(f"the run {run.metadata.name} has no stage filter, which keeps the names of pairs")
    layout = run_layout(run, storage)
    found = list(islice(_found(run, storage, layout, name, stop), MOST))
    if not found:
        listed = read_exclusions(storage, run.spec.filter.exclude) | taken_down(storage, layout)
        why = (
            "it is on a list of takedowns, so its names were forgotten"
            if name in listed
            else "give a uid, a key or a path"
        )
        raise UserError(f"no pair of this run is called {name}: {why}")
    return found


def _found(run: DihtRun, storage: Storage, layout: Layout, name: str, stop: StopFlag) -> Iterator[PairHistory]:
    raw: dict[str, Shard] | None = None
    for item in read_committed(storage, layout, Stage.FILTER).summary["shards"]:
        stop.raise_if_requested("nothing was changed")
        uri = layout.scores(item["name"])
        table = read_columns(storage, uri, _NAMES)
        table = table.append_column("row", pa.array(range(table.num_rows)))
        pattern = rf"(^|/){re.escape(name)}(\.[^./]+)?$"
        from_file = pc.match_substring_regex(pc.field("source"), pattern=pattern)  # pyright: ignore[reportAttributeAccessIssue]
        named = (pc.field("uid") == name) | (pc.field("index") == name) | from_file
        numbers = set(table.filter(named)["row"].to_pylist())
        if not numbers:
            continue
        if raw is None:
            with contextlib.suppress(UserError):
                raw = {shard.name: shard for shard in filter_input(run.spec, storage)}
        place = 0
        for number, row in enumerate(read_scores(storage, uri).rows()):
            if number in numbers:
                sample = _sample(run, storage, (raw or {}).get(item["name"]), number)
                yield _history(run, storage, layout, row, number, place, sample)
            place += row.kept


def _sample(run: DihtRun, storage: Storage, shard: Shard | None, number: int) -> Sample | None:
    if shard is None:
        return None
    assert run.spec.filter is not None, "the caller checks it"
    with contextlib.suppress(UserError, DataError):
        rows = (
            read_rows(storage, shard, run.spec.filter)
            if has_tables(run.spec)
            else until_damage(read_pairs(storage, shard))
        )
        return next(islice(rows, number, None), None)
    return None


def _history(
    run: DihtRun, storage: Storage, layout: Layout, row: Row, number: int, place: int, sample: Sample | None
) -> PairHistory:
    assert run.spec.filter is not None, "the caller checks it"
    caption = None if sample is None else sample.caption
    stages = {Stage.FILTER.value: verdict(row, run.spec.filter, caption)}
    if row.kept:
        stages |= _label(storage, layout, row, place) | _train(run, storage, layout)
    return PairHistory(row.shard, number, row.uid, row.index, row.source, caption, stages)


def verdict(row: Row, rules: Filter, caption: str | None) -> str:
    """What the filter decided on a pair, and by which numbers.

    Args:
        row: its scores.
        rules: of the run.
        caption: None where it is not known.
    """
    if row.kept:
        return "kept"
    if row.reason.startswith(BAD):
        return f"bad: {row.reason.removeprefix(BAD)}"
    why = _WHY.get(row.reason)
    shown = "the caption" if caption is None else repr(caption)
    return f"dropped by {row.reason}" + ("" if why is None else f": {why(row, rules, shown)}")


def _too_few_actions(row: Row, rules: Filter, caption: str) -> str:
    number = row.num_actions if rules.action_rule == "SubjectOrObject" else row.num_subject_actions
    if number:
        return f"{caption} has {number} actions, and minActions is {rules.min_actions}"
    return f"{caption} has no action" if not row.num_actions else f"{caption} has no action with a subject"


def _low_score(row: Row, rules: Filter, caption: str) -> str:
    least = None if rules.clip_score is None else rules.clip_score.min_score
    return f"image and {caption} have the score {row.clip_score:.4f}, and clipScore.minScore is {least}"


_WHY: Final[Mapping[str, Callable[[Row, Filter, str], str]]] = {
    "language": lambda row, rules, caption: f"{caption} is not in the language {rules.language}",
    "metadata": lambda row, rules, caption: "a number of its .json is outside of metadataLimits",
    "objects": lambda row, rules, caption: (
        f"{caption} names {len(row.objects)} objects, and minObjects is {rules.min_objects}"
    ),
    "complexity": lambda row, rules, caption: (
        f"{caption} has complexity {row.complexity}, and minComplexity is {rules.min_complexity}"
    ),
    "action": _too_few_actions,
    "size": lambda row, rules, caption: "its image is too small or too long (minSide, maxAspectRatio)",
    "benchmark": lambda row, rules, caption: "its image resembles one of a benchmark (decontaminate)",
    "clip_score": _low_score,
    "clip_share": lambda row, rules, caption: f"its score {row.clip_score:.4f} is below the share that clipScore keeps",
    "text": lambda row, rules, caption: (
        f"its image shows {', '.join(repr(text.text) for text in row.ocr)}, which is in {caption}"
    ),
    "duplicate": lambda row, rules, caption: "its image repeats an earlier one of the input",
}


def _label(storage: Storage, layout: Layout, row: Row, place: int) -> dict[str, str]:
    if find_committed(storage, layout, Stage.LABEL) is None:
        return {}
    table = read_label_table(storage, layout.labels(row.shard))
    if table.rows(place, place + 1).has_label_N[0]:
        return {Stage.LABEL.value: f"has soft labels (row {place} of labels/{row.shard}.parquet)"}
    return {Stage.LABEL.value: "has no label: its image cannot be used"}


def _train(run: DihtRun, storage: Storage, layout: Layout) -> dict[str, str]:
    committed = find_committed(storage, layout, Stage.TRAIN)
    if committed is None or run.spec.train is None or run.spec.train.shards:
        return {}
    pairs, samples = committed.summary["pairs"], committed.summary["samples"]
    return {
        Stage.TRAIN.value: f"one of {pairs} pairs of which the training drew {samples} "
        f"({samples / max(pairs, 1):.2g} a pair)"
    }


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
