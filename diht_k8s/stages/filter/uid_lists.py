"""The kept pairs of a finished filter as DataComp's list of uids, with which its resharder makes a training set.

The format is `.npy`: a sorted array of uids of 32 hexadecimal digits as two unsigned integers each, NumPy's dtype `u8,u8`
(github.com/mlfoundations/datacomp, `apply_filter.py` and `resharder.py`). The filter of a table of captions writes the
list by itself (`caption_tables.uid_index`).
"""

from __future__ import annotations

import numpy as np

from diht_k8s.api.errors import UserError
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import read_committed
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.stages.filter.scores import open_scores
from diht_k8s.stages.filter.uid_arrays import is_hex_uid, order_of, uid_numbers, write_uid_list


def write_kept_uids(run: DihtRun, storage: Storage, uri: str) -> int:
    """Write the uids of the kept pairs, each once; returns their number. It takes 32 bytes of memory for each.

    Args:
        run: whose filter is finished.
        storage: of its output and of the list.
        uri: where the list goes.

    Raises:
        UserError: the filter is not committed, or a uid is not of 32 hexadecimal digits.
    """
    layout = run_layout(run, storage)
    parts = [np.empty((0, 2), np.uint64)]
    for shard in read_committed(storage, layout, Stage.FILTER).summary["shards"]:
        if shard["kept"]:
            parts.append(uid_numbers(_kept_uids(storage, layout.scores(shard["name"]))))
    numbers = np.concatenate(parts)
    numbers = numbers[order_of(numbers)]
    first = np.ones(len(numbers), bool)
    first[1:] = (numbers[1:] != numbers[:-1]).any(axis=1)
    write_uid_list(storage, uri, numbers[first])
    return int(first.sum())


def _kept_uids(storage: Storage, scores: str) -> list[str]:
    table = open_scores(storage.read_bytes(scores), scores).file.read(columns=["uid", "kept"])
    uids: list[str] = table.filter(table["kept"])["uid"].to_pylist()
    odd = next((uid for uid in uids if not is_hex_uid(uid)), None)
    if odd is not None:
        raise UserError(
            f"the uid {odd!r} in {scores} is not of 32 hexadecimal digits: DataComp's list cannot hold it; take the uids "
            "from the scores, which are Parquet"
        )
    return uids
