"""Scores: one Parquet row for every sample of a shard, in shard order. People and later stages read them; a later
filter run reuses them.

The header records the input, parser, spotter and CLIP model of the scores. Scores with the same header are reused under
other thresholds.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.data.shards.parquet import HEADER_KEY
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.filter.captions.graph import CaptionGraph
from diht_k8s.stages.filter.text_spotting.matching import SpottedText

_STRINGS: Final = pa.list_(pa.string())


def _records(**columns: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in columns.items()]))


SCHEMA: Final = pa.schema(
    {
        "shard": pa.string(),
        "index": pa.string(),
        "uid": pa.string(),
        "caption_sha256": pa.string(),
        "source": pa.string(),
        "objects": _STRINGS,
        "attributes": _records(object=pa.string(), attribute=pa.string()),
        "relations": _records(subject=pa.string(), action=pa.string(), object=pa.string()),
        "actions": _STRINGS,
        "complexity": pa.int32(),
        "num_actions": pa.int32(),
        "num_subject_actions": pa.int32(),
        "ocr": _records(text=pa.string(), confidence=pa.float64()),
        "ocr_state": pa.string(),
        "kept": pa.bool_(),
        "reason": pa.string(),
        "parser_version": pa.string(),
    }
)

CLIP_SCHEMA: Final = SCHEMA.append(pa.field("clip_score", pa.float64()))
"""Of scores whose header names a CLIP model; null where the image was not scored."""

_JUNK: Final = pa.field("junk", pa.string())
"""Of scores whose header names `filter.junkField`."""


BAD: Final = "bad:"
"""Reasons of samples that cannot be used begin so."""


@dataclass(slots=True, kw_only=True)
class Row:
    """The scores of one sample; filled step by step."""

    shard: str
    index: str
    """the sample's key in its shard."""
    uid: str
    caption_sha256: str
    source: str | None = None
    """where the pair came from, as its .json says: path of the image, else table and row; None where it says nothing.
    """
    objects: Sequence[str] = ()
    attributes: Sequence[tuple[str, str]] = ()
    relations: Sequence[tuple[str | None, str, str | None]] = ()
    actions: Sequence[str] = ()
    complexity: int = 0
    num_actions: int = 0
    num_subject_actions: int = 0
    ocr: Sequence[SpottedText] = ()
    ocr_state: str = "not_run"
    """done, stopped_early (at the first match) or not_run."""
    kept: bool = False
    reason: str = ""
    """"" if kept, else bad:REASON or the rule that dropped the sample."""
    parser_version: str = ""
    """"" until the caption is parsed."""
    clip_score: float | None = None
    """cosine similarity of image and caption; None until the image is scored."""
    junk: str | None = None
    """kind of junk that its .json names, "" for none; None where the run does not ask, and of excluded pairs."""
    matched: bool | None = field(default=None, compare=False)
    """whether the image shows its caption under the rule of the run; None while unknown. Not stored, because the rule
    may change.
    """

    fingerprint: bytes | None = field(default=None, compare=False)
    """of the image, if repeats are dropped; stored in a file beside the scores of kept pairs."""

    def describe(self, graph: CaptionGraph, version: str) -> None:
        """Copy what the parser found."""
        names = [mention.name for mention in graph.objects]
        self.objects = names
        self.attributes = [(names[index], name) for index, name in graph.attributes]
        self.relations = [
            (None if one is None else names[one], predicate, None if other is None else names[other])
            for one, predicate, other in graph.relations
        ]
        self.actions = [action.name for action in graph.actions]
        self.complexity, self.num_actions = graph.complexity, graph.num_actions
        self.num_subject_actions, self.parser_version = graph.num_subject_actions, version

    def forget(self) -> None:
        """Keep of a pair that somebody wants taken down no more than the place and the reason."""
        kept = Row(shard=self.shard, index="", uid="", caption_sha256="", kept=self.kept, reason=self.reason)
        for name in Row.__slots__:
            setattr(self, name, getattr(kept, name))

    @property
    def is_forgotten(self) -> bool:
        """Whether `forget` was called before it was stored."""
        return not self.uid and not self.index

    def take_caption_scores(self, other: Row) -> None:
        """Copy what the parser of an earlier run found."""
        for name in _CAPTION_FIELDS:
            setattr(self, name, getattr(other, name))

    def same_sample(self, other: Row) -> bool:
        """Whether both rows describe the same pair."""
        return (self.index, self.uid, self.caption_sha256) == (other.index, other.uid, other.caption_sha256)


_CAPTION_FIELDS: Final = (
    *("objects", "attributes", "relations", "actions"),
    *("complexity", "num_actions", "num_subject_actions", "parser_version"),
)


def schema_of(header: Mapping[str, Any]) -> pa.Schema:
    """The columns of the scores with this header."""
    schema = CLIP_SCHEMA if "clip_model" in header else SCHEMA
    return schema.append(_JUNK) if "junk_field" in header else schema


def to_batch(rows: Sequence[Row], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    """Rows as Arrow columns, which take little memory."""
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    columns["attributes"] = [[{"object": o, "attribute": a} for o, a in item] for item in columns["attributes"]]
    columns["relations"] = [
        [{"subject": s, "action": a, "object": o} for s, a, o in item] for item in columns["relations"]
    ]
    columns["ocr"] = [[{"text": t, "confidence": c} for t, c in item] for item in columns["ocr"]]
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def from_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[Row]:
    """The rows of Arrow columns, in order."""
    for batch in batches:
        for item in batch.to_pylist():
            item["attributes"] = [(pair["object"], pair["attribute"]) for pair in item["attributes"]]
            item["relations"] = [(edge["subject"], edge["action"], edge["object"]) for edge in item["relations"]]
            item["ocr"] = [SpottedText(text["text"], text["confidence"]) for text in item["ocr"]]
            yield Row(**item)


@dataclass(frozen=True)
class Scores:
    """A scores file."""

    header: dict[str, Any]
    file: pq.ParquetFile

    def rows(self) -> Iterator[Row]:
        """The rows, decoded a thousand at a time."""
        return from_batches(self.file.iter_batches(1024))


def open_scores(data: bytes, uri: str) -> Scores:
    """Scores from the bytes of a file.

    Raises:
        DataError: the file is not a scores file or has another schema version.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        header = json.loads((file.schema_arrow.metadata or {})[HEADER_KEY])
        if header["schema_version"] != SCHEMA_VERSION or not schema_of(header).equals(
            file.schema_arrow.remove_metadata()
        ):
            raise ValueError(f"schema version {header['schema_version']}, this program writes {SCHEMA_VERSION}")
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{uri} is no scores file of this version or is damaged ({error}): remove it and run the stage again"
        ) from error
    return Scores(header, file)


def read_scores(storage: Storage, uri: str) -> Scores:
    """The scores that earlier steps of the stage have written.

    Raises:
        DataError: they are gone, or damaged.
    """
    found = find_scores(storage, uri)
    if found is None:
        raise DataError(f"{uri} has gone while the stage ran: run the stage filter again")
    return found


def header_of(storage: Storage, uri: str) -> dict[str, Any]:
    """The header of a scores file, without the rows; raises what `read_columns` does."""
    with _opened(storage, uri) as file:
        return json.loads((file.schema_arrow.metadata or {})[HEADER_KEY])


def read_columns(storage: Storage, uri: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a scores file, by ranges.

    Raises:
        DataError: the file is damaged.
    """
    with _opened(storage, uri) as file:
        return file.read(columns=list(columns))


@contextlib.contextmanager
def _opened(storage: Storage, uri: str) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open(uri, seekable=True) as file:
            yield pq.ParquetFile(file)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{uri} is damaged ({error}): remove it and run the stage again") from error


def find_scores(storage: Storage, uri: str) -> Scores | None:
    """The scores at a URI; None if the file does not exist."""
    return open_scores(storage.read_bytes(uri), uri) if storage.exists(uri) else None
