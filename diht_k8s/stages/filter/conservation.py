"""The filter's ledger: shards in = files out, samples read = scores written, pairs kept = pairs in the kept files.

A shard is checked when its counts enter the summary of its group, and the sums of all groups before the marker, with one
listing of each folder. No data are read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import join
from diht_k8s.api.reports import Artefact
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.ledger import Count, require_equal
from diht_k8s.stages.filter.exclusion import EXCLUDED
from diht_k8s.stages.filter.summary import Summary

if TYPE_CHECKING:
    from diht_k8s.stages.filter.group_summaries import GroupSummary

AGAIN = "remove this file and run the stage filter again"


def check_shard(uri: str, header: Mapping[str, Any], rows: int, summary: Summary) -> None:
    """Compare what was read of a shard with its scores and its kept file.

    Args:
        uri: of the scores.
        header: of the scores.
        rows: of the scores, by their footer.
        summary: the counts of the loop over the samples.

    Raises:
        DataError: they differ.
    """
    counted = Count(summary.accounted, "samples are kept, dropped or bad")
    read = header["read"]
    reader = [] if read is None else [Count(read, "were read of the shard")]
    require_equal(
        uri, AGAIN, counted, Count(summary.input, "were filtered"), Count(rows, "rows are in the scores"), *reader
    )
    kept = Count(header["kept"]["pairs"], "pairs are in the file of kept pairs")
    require_equal(uri, AGAIN, Count(summary.kept, "samples are kept"), kept)


def check_stage(storage: Storage, folder: str, found: GroupSummary, shards: Sequence[str]) -> None:
    """Compare the sums of all groups with each other, with the sources and with the files that are there.

    Args:
        storage: where the stage's folder is.
        folder: of the stage.
        found: the groups' summaries, merged.
        shards: names of all shards, or parts of tables, that the sources list.

    Raises:
        DataError: a number differs, or a file has another size than when it was written.
    """
    total, again = found.total, f"remove {join(folder, 'summaries')} and start the stage filter again"
    require_equal(
        folder,
        again,
        Count(len(shards), "shards are listed"),
        Count(len(set(shards)), "names do they have"),
        Count(len(found.shards), "are summed up"),
        Count(len({shard["name"] for shard in found.shards} & set(shards)), "of them are summed up once"),
    )
    require_equal(
        folder,
        again,
        Count(total.accounted, "samples are kept, dropped or bad"),
        Count(total.input, "were filtered"),
        Count(sum(shard["input"] for shard in found.shards), "are the shards' samples"),
        Count(found.rows, "rows are in the scores"),
    )
    if total.junk.pairs:
        listed = Count(total.input - total.dropped[EXCLUDED], "samples are not excluded")
        require_equal(folder, again, listed, Count(total.junk.pairs, "are counted by kind of junk"))
    require_equal(
        folder,
        again,
        Count(total.kept, "samples are kept"),
        Count(sum(shard["kept"] for shard in found.shards), "are the shards' kept samples"),
        Count(found.pairs, "pairs are in the files of kept pairs"),
    )
    _check_files(storage, folder, found.artefacts)


def _check_files(storage: Storage, folder: str, written: Sequence[Artefact]) -> None:
    """Compare the files with what their summaries say, by one listing a folder: a disk may have lost some since.

    Raises:
        DataError: a file is missing, has another size, or is one too many.
    """
    by_folder: dict[str, dict[str, int]] = {}
    for item in written:
        place, _, name = item.path.rpartition("/")
        by_folder.setdefault(place, {})[name] = item.size
    for place, expected in by_folder.items():
        there = storage.identities(join(folder, place))
        for name, size in expected.items():
            now = int(there.get(name, "0").partition("-")[0])
            if name not in there or now != size:
                scores = join(folder, "scores", f"{name.rpartition('.')[0]}.parquet")
                state = f"is damaged ({now} bytes where {size} were written)" if name in there else "has gone"
                raise DataError(
                    f"{join(folder, place, name)} {state}: remove {scores} and start the stage filter again"
                )
        suffix = next(iter(expected)).rpartition(".")[2]
        more = sorted(name for name in there if name.endswith(f".{suffix}") and name not in expected)
        require_equal(
            join(folder, place),
            f"move away what the stage has not written ({', '.join(more[:3])})",
            Count(len(expected), "shards"),
            Count(len(expected) + len(more), f"files *.{suffix}"),
        )
