"""The caption pass: tables of URLs and captions in; scores and the list of the pairs that are worth a download out.

The tables are split into parts, and their rows become samples without an image. Rules on captions apply, and those on
sizes where the table has them. What is kept is one table for each part, `filter/survivors/PART.parquet`, which
img2dataset reads: `--url_col url --caption_col text --save_additional_columns '["uid"]'`. `uid_lists` finds the scores
again when the downloaded shards are filtered.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from diht_k8s.api.filter import Filter, TextSpotting
from diht_k8s.api.run import Spec
from diht_k8s.data.imports.url_tables import Columns, TableRow, parts_of, read_part, rows_of_part
from diht_k8s.data.shards.samples import Sample, SamplePlaces, caption_of
from diht_k8s.data.shards.sources import Shard, current_shards, distinct_names, input_shards, stem
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.filter.kept_pairs import DIGEST
from diht_k8s.stages.filter.rules import has_bad_shape
from diht_k8s.stages.filter.scores import Row
from diht_k8s.stages.filter.shard_filter import ShardFilter

WIDTH, HEIGHT = "original_width", "original_height"
"""Names under which samples have these of a table, as img2dataset writes them into the .json."""
MAX_UID: Final = 128
"""Characters; the .json of a shard has the same limit."""
_AT_A_TIME: Final = 16
"""Tables whose sizes and footers are read together."""


def has_tables(spec: Spec) -> bool:
    """Whether the run filters captions without images."""
    return any(source.captions for source in spec.data.sources)


def filter_input(spec: Spec, storage: Storage, *, current: bool = False) -> list[Shard]:
    """The raw shards of a run, or the parts of its tables; in order, with unique names.

    Args:
        spec: of the run.
        storage: where they are.
        current: list the shards as they are now (see `source_lists`).
    """
    if not has_tables(spec):
        return current_shards(spec, storage) if current else input_shards(spec, storage)
    found = storage.list_sources([source.captions or () for source in spec.data.sources])
    files = [(source, file) for source, group in zip(spec.data.sources, found, strict=True) for file in group]
    names = distinct_names([(f"{source.name}-{stem(file.uri)}", file.uri) for source, file in files])
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        tables = list(pool.map(lambda each: parts_of(storage, each[1].uri), files))
    return [
        Shard(
            f"{name}-{number:05}",
            file.uri,
            source.name,
            source.filter,
            caption_key=source.caption_key,
            identity=file.identity,
            part=part,
        )
        for name, (source, file), parts in zip(names, files, tables, strict=True)
        for number, part in enumerate(parts)
    ]


def read_rows(storage: Storage, shard: Shard, rules: Filter) -> Iterator[Sample]:
    """The rows of a part as samples, in order; those that cannot be used carry their reason.

    Raises:
        UserError: the table has no column of URLs or captions.
        DataError: it is damaged.
    """
    assert shard.part is not None, "tables are read in parts"
    numbers = [limit.name for limit in rules.metadata_limits]
    columns, rows = read_part(storage, shard.uri, shard.part, shard.caption_key, numbers)
    for key, row in rows:
        yield sample_of(key, row, columns)


def sample_of(key: str, row: TableRow | None, columns: Columns) -> Sample:
    """A row as a sample; its uid is the table's, else a hash of URL and caption."""
    if row is None:
        return Sample(key, {}, key, "", problem="row_unreadable")
    url, said = row.get(columns.url), row.get(columns.caption)
    text = said.encode(errors="surrogatepass") if isinstance(said, str) else None
    caption, problem = caption_of(text, {} if said is None else {"caption": said})
    uid = row.get(columns.uid) if columns.uid is not None else None
    if not isinstance(uid, str) or not 0 < len(uid) <= MAX_UID:
        uid = url_uid(url if isinstance(url, str) else "", caption)
    if not isinstance(url, str) or not url.strip():
        problem = problem or "url_missing"
    return Sample(key, {}, uid, caption, _meta(row, columns), problem)


def url_uid(url: str, caption: str) -> str:
    """The uid of a row that has none: 32 hex digits of a hash of its URL and caption."""
    return hashlib.sha256(f"{url}\0{caption}".encode(errors="surrogatepass")).hexdigest()[:32]


def _meta(row: TableRow, columns: Columns) -> dict[str, Any]:
    """The metadata for the rules, as the .json of the downloaded pair would have them."""
    found: dict[str, Any] = {"url": row.get(columns.url)}
    named = {WIDTH: columns.width, HEIGHT: columns.height, **{name: name for name in columns.numbers}}
    for name, column in named.items():
        value = None if column is None else _number(row.get(column))
        if value is not None:
            found[name] = value
    if columns.sha256 is not None:
        found[DIGEST] = row.get(columns.sha256)
    return found


def _number(value: Any) -> float | None:
    """A number of a table; texts of a CSV are read, all else is None."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
        return None if math.isnan(value) else value
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def sizes_of(sample: Sample) -> tuple[float, float] | None:
    """Width and height by the table; None where it does not say both."""
    width, height = sample.meta.get(WIDTH), sample.meta.get(HEIGHT)
    return None if not width or not height or width < 0 or height < 0 else (width, height)


BATCH: Final = 1024
"""Rows per batch: they are small, and the parser is faster with more captions (half a second's work)."""


def without_images(rules: Filter) -> Filter:
    """The rules that a caption pass can apply; the later pass over the downloaded shards applies the others."""
    return rules.model_copy(
        update={
            "text_spotting": TextSpotting(mode="Disabled"),
            "clip_score": None,
            "duplicates": None,
            "decontaminate": [],
            "junk_field": None,
        }
    )


class TableFilter(ShardFilter):
    """Filters the parts of the tables of one run, one at a time; all but reading and image rules is as with shards."""

    batch = BATCH

    def _read(self, shard: Shard, places: SamplePlaces) -> Iterator[Sample]:
        return read_rows(self._context.storage, shard, self._rules)

    def _number_read(self, shard: Shard, places: SamplePlaces) -> int | None:
        return None if shard.part is None else rows_of_part(shard.uri, shard.part)

    def _apply_rules(self, shard: Shard, batch: Sequence[Sample], known: Sequence[Row | None]) -> list[Row]:
        rows, _ = self._rule_chain.apply_to_captions(shard.name, batch, known, filtered=shard.filtered)
        for row, sample in zip(rows, batch, strict=True):
            sizes = sizes_of(sample)
            if not row.reason and shard.filtered and sizes is not None and has_bad_shape(sizes, self._rules):
                row.reason = "size"
            row.kept = not row.reason
        return rows
