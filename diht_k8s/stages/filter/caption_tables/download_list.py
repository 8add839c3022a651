"""The list of the pairs that are worth a download, one table for each part: `filter/survivors/PART.parquet`.

img2dataset reads the folder: `--url_col url --caption_col text --save_additional_columns '["uid"]'`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.parquet import row_count, write_table
from diht_k8s.data.shards.samples import Sample, storable
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.filter.caption_tables.table_parts import DIGEST
from diht_k8s.stages.filter.kept_pairs import WrittenFile
from diht_k8s.stages.filter.scores import Row

FOLDER: Final = "survivors"
UID, URL, TEXT = "uid", "url", "text"


@dataclass(frozen=True)
class DownloadList:
    """The tables of a run's kept pairs, one a part."""

    storage: Storage
    layout: Layout
    numbers: Sequence[str]
    """names of the numbers of `metadataLimits`, which travel with the pairs."""

    def uri(self, shard: str) -> str:
        """The table of a part."""
        return join(self.layout.stage(Stage.FILTER), self.path(shard))

    def path(self, shard: str) -> str:
        """The table relative to the folder of the stage."""
        return f"{FOLDER}/{shard}.parquet"

    def write(self, shard: str, pairs: Iterable[tuple[int, Row, Sample]]) -> WrittenFile:
        """Write the kept pairs of a part."""
        numbers = [name for name in self.numbers if name not in (UID, URL, TEXT, DIGEST)]
        schema = pa.schema(
            {**dict.fromkeys((UID, URL, TEXT, DIGEST), pa.string()), **dict.fromkeys(numbers, pa.float64())}
        )
        listed = [
            {
                UID: row.uid,
                URL: storable(sample.meta["url"]),
                TEXT: sample.caption,
                DIGEST: digest if isinstance(digest := sample.meta.get(DIGEST), str) else None,
                **{name: sample.meta.get(name) for name in numbers},
            }
            for _, row, sample in pairs
        ]
        data = write_table(self.storage, self.uri(shard), pa.Table.from_pylist(listed, schema=schema), {})
        return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pairs": row_count(data)}

    def uids(self, shard: str) -> list[str]:
        """The uids of a part's kept pairs, in order."""
        column: Any = pq.read_table(io.BytesIO(self.storage.read_bytes(self.uri(shard))), columns=[UID])[UID]
        return column.to_pylist()
